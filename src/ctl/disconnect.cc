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
#include "ctl/connections.h"
#include "ctl/draining_connections.h"
#include "ctl/ended_connections.h"
#include "ctl/exports.h"
#include "ctl/output.h"
#include "ctl/peer_pattern.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// How long a process of a listening service may drain; TimeoutStopSec= of the
// units of connections is the same.
constexpr absl::Duration kPatience = absl::Minutes(2);

// `unit_result`: the service's property Result; empty if it isn't known.
std::string InWords(const std::string& job, const std::string& unit_result,
                    const std::string& unit) {
  if (job != "done") return absl::StrCat("failed: the job's result is ", job);
  if (unit_result == "timeout") return "killed, since it didn't drain in time";
  if (unit_result.empty() || unit_result == "success") return kDisconnected;
  return FailureOf(unit_result, unit);
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
    outcome.result = kDisconnected;
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

// Ends the connections, and waits until they have ended.
absl::Status End(Bus& bus, const CommandLine& line,
                 std::vector<Outcome>& outcomes) {
  std::vector<Outcome*> units;
  for (Outcome& outcome : outcomes) {
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
    if (absl::Status status = StopUnits(bus, units); !status.ok()) {
      return status;
    }
  }
  EndProcesses(outcomes);
  return absl::OkStatus();
}

// The same, so that a client that connects again sees no error.
absl::Status DrainThese(const CommandLine& line,
                        std::vector<Outcome>& outcomes) {
  if (!line.where.local()) {
    return absl::UnimplementedError(
        "--drain sends a signal to processes, which can be done on their own "
        "machine only: run nbdinetctl there");
  }
  std::vector<LiveConnection> connections;
  std::vector<Outcome> unknown;
  for (Outcome& outcome : outcomes) {
    if (outcome.connection.pid.has_value()) {
      connections.push_back(std::move(outcome.connection));
    } else {
      unknown.push_back({std::move(outcome.connection),
                         "failed: its process has just started"});
    }
  }
  DrainingConnections draining;
  draining.Add(std::move(connections));
  draining.Wait(SteadyNow() + kPatience);
  outcomes = draining.TakeOutcomes();
  std::move(unknown.begin(), unknown.end(), std::back_inserter(outcomes));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int> Disconnect(const CommandLine& line) {
  absl::StatusOr<Bus> bus = Bus::Open(line.where);
  if (!bus.ok()) return bus.status();
  absl::StatusOr<std::vector<Outcome>> outcomes = Chosen(*bus, line);
  if (!outcomes.ok()) return outcomes.status();
  absl::Status status =
      line.drain ? DrainThese(line, *outcomes) : End(*bus, line, *outcomes);
  if (!status.ok()) return status;
  ReadLastMessages(line.where, *outcomes);
  const absl::StatusOr<int> result = PrintOutcomes(line, *outcomes);
  if (outcomes->empty()) {
    Warn(absl::StrCat(Quoted(line.arguments[0]), " has no clients"));
  }
  return result;
}

}  // namespace nbdinetd::ctl
