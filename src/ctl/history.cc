#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ctl/bus.h"
#include "ctl/columns.h"
#include "ctl/exports.h"
#include "ctl/journal.h"
#include "ctl/output.h"
#include "ctl/past_connections.h"
#include "ctl/peer_pattern.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

Cell MicrosecondsOf(absl::Time time) {
  return static_cast<uint64_t>(absl::ToUnixMicros(time));
}

// A connection, with the export that its unit belongs to.
std::vector<Cell> RowOf(const PastConnection& connection,
                        const std::string& export_name) {
  Cell until, duration, counters[4];
  if (connection.until.has_value()) until = MicrosecondsOf(*connection.until);
  if (connection.duration.has_value()) {
    duration =
        static_cast<uint64_t>(absl::ToInt64Microseconds(*connection.duration));
  }
  if (connection.counters.has_value()) {
    counters[0] = connection.counters->requests;
    counters[1] = connection.counters->bytes_read;
    counters[2] = connection.counters->bytes_written;
    counters[3] = connection.counters->errors;
  }
  return {MicrosecondsOf(connection.since),
          until,
          export_name,
          TextCell(connection.asked_name),
          TextCell(connection.peer),
          TextCell(connection.identity),
          duration,
          counters[0],
          counters[1],
          counters[2],
          counters[3],
          TextCell(connection.reason),
          CellOf(connection.exit_status),
          TextCell(connection.file),
          TextCell(connection.mode),
          connection.unit,
          CellOf(connection.pid)};
}

// The exports, for their names. Without a service manager, names come from the
// units alone.
std::vector<ManagedExport> KnownExports(absl::StatusOr<Bus>& bus,
                                        const Where& where) {
  if (!bus.ok()) return {};
  absl::StatusOr<std::vector<ManagedExport>> exports =
      FindExportUnits(*bus, where);
  return exports.ok() ? *std::move(exports) : std::vector<ManagedExport>();
}

}  // namespace

absl::StatusOr<int> History(const CommandLine& line) {
  // Without the journal, the service manager needn't be reached.
  absl::StatusOr<Journal> journal = Journal::Open(line.where);
  if (!journal.ok()) return journal.status();
  absl::StatusOr<Bus> bus = Bus::Open(line.where);
  const std::vector<ManagedExport> exports = KnownExports(bus, line.where);
  std::string wanted;  // the name of the export; empty for all
  absl::Status unknown;
  if (!line.arguments.empty()) {
    const absl::StatusOr<ManagedExport> target =
        FindExport(exports, line.arguments[0]);
    // An export that is deleted has a history, too.
    unknown = target.status();
    wanted = target.ok() ? target->name : line.arguments[0];
  }
  const absl::StatusOr<std::vector<PastConnection>> past =
      FindPastConnections(*journal, line.where, bus.ok() ? &*bus : nullptr,
                          line.since.value_or(absl::InfinitePast()),
                          line.until.value_or(absl::InfiniteFuture()));
  if (!past.ok()) return past.status();
  Table table(HistoryColumns());
  for (const PastConnection& connection : *past) {
    if (connection.unit.empty() ||
        (!line.peer.empty() &&
         !IsPeerMeant(line.peer, connection.peer, connection.identity))) {
      continue;
    }
    const std::string name = ExportNameOfUnit(exports, connection.unit);
    if (wanted.empty() || name == wanted) table.AddRow(RowOf(connection, name));
  }
  if (table.empty() && !unknown.ok()) return unknown;
  if (absl::Status printed = PrintTable(line, table); !printed.ok()) {
    return printed;
  }
  return kSuccess;
}

}  // namespace nbdinetd::ctl
