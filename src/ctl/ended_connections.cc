#include "ctl/ended_connections.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "ctl/columns.h"
#include "ctl/journal.h"
#include "ctl/output.h"
#include "ctl/table.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// Exit statuses of a process whose client is at fault, or nobody: those of
// SuccessExitStatus= in the shipped units.
bool IsGood(uint64_t exit_status) {
  constexpr uint64_t kGood[] = {0, 69, 75, 76, 77};
  return std::find(std::begin(kGood), std::end(kGood), exit_status) !=
         std::end(kGood);
}

// Takes the counters and the result from the connection's last message.
void ApplyLastMessage(const JournalEntry& entry, Outcome& outcome) {
  outcome.connection.counters =
      Counters{entry.Number("NBD_REQUESTS").value_or(0),
               entry.Number("NBD_BYTES_READ").value_or(0),
               entry.Number("NBD_BYTES_WRITTEN").value_or(0),
               entry.Number("NBD_ERRORS").value_or(0)};
  const uint64_t status = entry.Number("NBD_EXIT_STATUS").value_or(0);
  if (outcome.result != kDisconnected || IsGood(status)) return;
  outcome.result =
      FailureOf(entry.Field("NBD_REASON").value_or(absl::StrCat(status)),
                outcome.connection.unit);
}

std::vector<Cell> RowOf(const Outcome& outcome) {
  const LiveConnection& connection = outcome.connection;
  Cell counters[3];
  if (connection.counters.has_value()) {
    counters[0] = connection.counters->bytes_read;
    counters[1] = connection.counters->bytes_written;
    counters[2] = connection.counters->errors;
  }
  return {connection.export_name,
          TextCell(connection.peer),
          TextCell(connection.identity),
          counters[0],
          counters[1],
          counters[2],
          outcome.result,
          connection.unit,
          CellOf(connection.pid)};
}

}  // namespace

std::string FailureOf(absl::string_view result, const std::string& unit) {
  return absl::StrCat("ended with a failure (", result,
                      "): see 'journalctl -u ", unit, "'");
}

void ReadLastMessages(const Where& where, std::vector<Outcome>& outcomes) {
  absl::StatusOr<Journal> journal = Journal::Open(where);
  if (!journal.ok()) return;
  for (Outcome& outcome : outcomes) {
    const LiveConnection& connection = outcome.connection;
    if (!connection.pid.has_value()) continue;
    journal
        ->ForEach(LastMessagesOf(connection),
                  [&](const JournalEntry& entry) {
                    if (!entry.Field("NBD_REQUESTS").has_value()) return true;
                    ApplyLastMessage(entry, outcome);
                    return false;
                  })
        .IgnoreError();
  }
}

absl::StatusOr<int> PrintOutcomes(const CommandLine& line,
                                  const std::vector<Outcome>& outcomes) {
  Table table(DisconnectColumns());
  bool all = true;
  for (const Outcome& outcome : outcomes) {
    table.AddRow(RowOf(outcome));
    all = all && outcome.result == kDisconnected;
  }
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  return all ? kSuccess : kFailed;
}

}  // namespace nbdinetd::ctl
