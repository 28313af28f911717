#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/poll.h"
#include "base/steady_clock.h"
#include "base/unique_fd.h"
#include "ctl/bus.h"
#include "ctl/client_process.h"
#include "ctl/columns.h"
#include "ctl/connections.h"
#include "ctl/exports.h"
#include "ctl/journal.h"
#include "ctl/output.h"
#include "ctl/peer_pattern.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// How long a process of a listening service may drain; TimeoutStopSec= of the
// units of connections is the same.
constexpr absl::Duration kPatience = absl::Minutes(2);

constexpr char kDrained[] = "disconnected";

// A connection, and what became of it.
struct Outcome {
  LiveConnection connection;
  std::string result;
};

std::string Failure(absl::string_view result, const std::string& unit) {
  return absl::StrCat("ended with a failure (", result,
                      "): see 'journalctl -u ", unit, "'");
}

// `unit_result`: the service's property Result; empty if it isn't known.
std::string InWords(const std::string& job, const std::string& unit_result,
                    const std::string& unit) {
  if (job != "done") return absl::StrCat("failed: the job's result is ", job);
  if (unit_result == "timeout") return "killed, since it didn't drain in time";
  if (unit_result.empty() || unit_result == "success") return kDrained;
  return Failure(unit_result, unit);
}

// Exit statuses of a process whose client is at fault, or nobody: those of
// SuccessExitStatus= in the shipped units.
bool IsGood(uint64_t exit_status) {
  constexpr uint64_t kGood[] = {0, 69, 75, 76, 77};
  return std::find(std::begin(kGood), std::end(kGood), exit_status) !=
         std::end(kGood);
}

// Stops the units of connections, and waits until all have drained.
absl::Status StopUnits(Bus& bus, std::vector<Outcome*>& outcomes) {
  std::vector<std::string> units;
  for (const Outcome* outcome : outcomes) {
    // Otherwise the manager forgets the unit's result with the unit.
    bus.KeepUnit(outcome->connection.unit);
    units.push_back(outcome->connection.unit);
  }
  const absl::StatusOr<std::map<std::string, std::string>> jobs =
      bus.RunJobs("StopUnit", units);
  if (!jobs.ok()) return jobs.status();
  for (Outcome* outcome : outcomes) {
    const std::string& unit = outcome->connection.unit;
    outcome->result =
        InWords(jobs->at(unit), bus.GetString(unit, "Service", "Result"), unit);
  }
  return absl::OkStatus();
}

// A process of a listening service that has been asked to drain.
struct Draining {
  Outcome* outcome;
  UniqueFd pidfd;
};

std::string FailedToEnd(const LiveConnection& connection,
                        absl::string_view why) {
  return absl::StrCat("failed to end the process ", *connection.pid, " of ",
                      connection.unit, ": ", why);
}

// Asks a process to drain. An invalid descriptor if it has ended already.
absl::StatusOr<UniqueFd> AskToDrain(const LiveConnection& connection) {
  UniqueFd pidfd = OpenClientProcess(connection);
  const int error = pidfd.valid() ? SendSignal(pidfd, SIGTERM) : errno;
  if (error == 0) return pidfd;
  if (error == ESRCH) return UniqueFd();
  const std::string why =
      error == EPERM ? "run nbdinetctl as root" : ErrnoText(error);
  return absl::InternalError(FailedToEnd(connection, why));
}

// Ends processes of listening services: all drain at the same time.
void EndProcesses(std::vector<Outcome>& outcomes) {
  std::vector<Draining> draining;
  for (Outcome& outcome : outcomes) {
    if (outcome.connection.per_connection) continue;
    absl::StatusOr<UniqueFd> pidfd = AskToDrain(outcome.connection);
    outcome.result = kDrained;
    if (!pidfd.ok()) {
      outcome.result = absl::StrCat("failed: ", pidfd.status().message());
    } else if (pidfd->valid()) {
      draining.push_back({&outcome, *std::move(pidfd)});
    }
  }
  const absl::Time deadline = SteadyNow() + kPatience;
  for (const Draining& process : draining) {
    pollfd ended = {process.pidfd.get(), POLLIN, 0};
    if (PollUntil(absl::MakeSpan(&ended, 1), deadline) > 0) continue;
    const LiveConnection& connection = process.outcome->connection;
    process.outcome->result = absl::StrCat(
        "failed: ",
        FailedToEnd(connection,
                    absl::StrCat("it still drains; 'kill -KILL ",
                                 *connection.pid, "' would end it")));
  }
}

// Takes the counters and the result from the connection's last message.
void ApplyLastMessage(const JournalEntry& entry, Outcome& outcome) {
  outcome.connection.counters =
      Counters{entry.Number("NBD_REQUESTS").value_or(0),
               entry.Number("NBD_BYTES_READ").value_or(0),
               entry.Number("NBD_BYTES_WRITTEN").value_or(0),
               entry.Number("NBD_ERRORS").value_or(0)};
  const uint64_t status = entry.Number("NBD_EXIT_STATUS").value_or(0);
  if (outcome.result != kDrained || IsGood(status)) return;
  outcome.result =
      Failure(entry.Field("NBD_REASON").value_or(absl::StrCat(status)),
              outcome.connection.unit);
}

// What the connections' last messages say, if the journal has them and may be
// read. Processes of a listening service have no other result.
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

// The connections that the argument means.
absl::StatusOr<std::vector<Outcome>> Chosen(Bus& bus, const CommandLine& line) {
  const std::string& argument = line.arguments[0];
  absl::StatusOr<std::vector<ManagedExport>> exports =
      FindExportUnits(bus, line.where);
  if (!exports.ok()) return exports.status();
  const absl::StatusOr<ManagedExport> target = FindExport(*exports, argument);
  if (target.ok()) *exports = {*target};
  absl::StatusOr<LiveConnections> found =
      FindConnections(bus, line.where, *exports);
  if (!found.ok()) return found.status();
  std::vector<Outcome> outcomes;
  for (LiveConnection& connection : found->connections) {
    if (target.ok() ||
        IsPeerMeant(argument, connection.peer, connection.identity)) {
      outcomes.push_back({std::move(connection), ""});
    }
  }
  if (!outcomes.empty() || target.ok()) return outcomes;
  if (!found->journal.ok()) {
    Warn(absl::StrCat("the clients of listening services are in the journal: ",
                      found->journal.message()));
  }
  return absl::NotFoundError(
      absl::StrCat("there is no export and no connected client ",
                   Quoted(argument), ": 'nbdinetctl connections' shows all"));
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

absl::StatusOr<int> Disconnect(const CommandLine& line) {
  absl::StatusOr<Bus> bus = Bus::Open(line.where);
  if (!bus.ok()) return bus.status();
  absl::StatusOr<std::vector<Outcome>> outcomes = Chosen(*bus, line);
  if (!outcomes.ok()) return outcomes.status();
  std::vector<Outcome*> units;
  for (Outcome& outcome : *outcomes) {
    if (outcome.connection.per_connection) {
      units.push_back(&outcome);
    } else if (!line.where.local()) {
      return absl::UnimplementedError(absl::StrCat(
          "a connection of ", outcome.connection.unit,
          " is a process, which can be ended on its own machine only: run "
          "nbdinetctl there"));
    }
  }
  if (!units.empty()) {
    if (absl::Status status = StopUnits(*bus, units); !status.ok()) {
      return status;
    }
  }
  EndProcesses(*outcomes);
  ReadLastMessages(line.where, *outcomes);
  Table table(DisconnectColumns());
  bool all = true;
  for (const Outcome& outcome : *outcomes) {
    table.AddRow(RowOf(outcome));
    all = all && outcome.result == kDrained;
  }
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  if (outcomes->empty()) {
    Warn(absl::StrCat(Quoted(line.arguments[0]), " has no clients"));
  }
  return all ? kSuccess : kFailed;
}

}  // namespace nbdinetd::ctl
