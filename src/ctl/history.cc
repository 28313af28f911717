#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "base/message_id.h"
#include "ctl/bus.h"
#include "ctl/columns.h"
#include "ctl/exports.h"
#include "ctl/journal.h"
#include "ctl/output.h"
#include "ctl/peer_pattern.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

Cell MicrosecondsOf(absl::Time time) {
  return static_cast<uint64_t>(absl::ToUnixMicros(time));
}

// What the arguments leave.
struct Wanted {
  const std::vector<ManagedExport>& exports;
  std::string export_name;  // empty for all
  std::string peer;         // empty for all
};

// The row of an entry; nullopt for one that isn't wanted, or isn't about the
// end of a connection that was served.
std::optional<std::vector<Cell>> RowOf(const JournalEntry& entry,
                                       const Wanted& wanted) {
  const std::string unit = entry.Unit();
  const std::string peer = entry.Field("NBD_PEER").value_or("");
  const std::string identity = entry.Field("NBD_TLS_IDENTITY").value_or("");
  const std::optional<uint64_t> duration = entry.Number("NBD_DURATION_USEC");
  const std::string name = ExportNameOfUnit(wanted.exports, unit);
  if (!entry.Field("NBD_REQUESTS").has_value() || unit.empty() ||
      (!wanted.export_name.empty() && name != wanted.export_name) ||
      (!wanted.peer.empty() && !IsPeerMeant(wanted.peer, peer, identity))) {
    return std::nullopt;
  }
  const absl::Time end = entry.time();
  const absl::Time start =
      end - absl::Microseconds(static_cast<int64_t>(duration.value_or(0)));
  return std::vector<Cell>{MicrosecondsOf(start),
                           MicrosecondsOf(end),
                           TextCell(name),
                           TextCell(entry.Field("NBD_EXPORT").value_or("")),
                           TextCell(peer),
                           TextCell(identity),
                           CellOf(duration),
                           CellOf(entry.Number("NBD_REQUESTS")),
                           CellOf(entry.Number("NBD_BYTES_READ")),
                           CellOf(entry.Number("NBD_BYTES_WRITTEN")),
                           CellOf(entry.Number("NBD_ERRORS")),
                           TextCell(entry.Field("NBD_REASON").value_or("")),
                           CellOf(entry.Number("NBD_EXIT_STATUS")),
                           TextCell(entry.Field("NBD_FILE").value_or("")),
                           TextCell(entry.Field("NBD_MODE").value_or("")),
                           unit,
                           CellOf(entry.Number("_PID"))};
}

// The exports, for their names. Without a service manager, names come from the
// units alone.
std::vector<ManagedExport> KnownExports(const Where& where) {
  absl::StatusOr<Bus> bus = Bus::Open(where);
  if (!bus.ok()) return {};
  absl::StatusOr<std::vector<ManagedExport>> exports =
      FindExportUnits(*bus, where);
  return exports.ok() ? *std::move(exports) : std::vector<ManagedExport>();
}

}  // namespace

absl::StatusOr<int> History(const CommandLine& line) {
  absl::StatusOr<Journal> journal = Journal::Open(line.where);
  if (!journal.ok()) return journal.status();
  const std::vector<ManagedExport> exports = KnownExports(line.where);
  Wanted wanted{exports, "", line.peer};
  absl::Status unknown;
  if (!line.arguments.empty()) {
    const absl::StatusOr<ManagedExport> target =
        FindExport(exports, line.arguments[0]);
    // An export that is deleted has a history, too.
    unknown = target.status();
    wanted.export_name = target.ok() ? target->name : line.arguments[0];
  }
  Table table(HistoryColumns());
  JournalQuery query;
  query.since = line.since.value_or(absl::InfinitePast());
  for (const MessageId& id : message_id::kEndsOfServed) {
    query.message_ids.push_back(id);
  }
  const absl::Status status =
      journal->ForEach(query, [&](const JournalEntry& entry) {
        if (line.until.has_value() && entry.time() >= *line.until) return false;
        if (auto row = RowOf(entry, wanted)) table.AddRow(*std::move(row));
        return true;
      });
  if (!status.ok()) return status;
  if (table.empty() && !unknown.ok()) return unknown;
  if (absl::Status printed = PrintTable(line, table); !printed.ok()) {
    return printed;
  }
  return kSuccess;
}

}  // namespace nbdinetd::ctl
