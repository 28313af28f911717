// drain and undrain: takes exports, or this machine, out of service for
// maintenance, and back.

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/amounts.h"
#include "base/errors.h"
#include "base/shutdown_notice.h"
#include "base/steady_clock.h"
#include "base/unique_fd.h"
#include "ctl/bus.h"
#include "ctl/client_process.h"
#include "ctl/columns.h"
#include "ctl/connections.h"
#include "ctl/drained_mark.h"
#include "ctl/draining_connections.h"
#include "ctl/ended_connections.h"
#include "ctl/exports.h"
#include "ctl/output.h"
#include "ctl/readable.h"
#include "ctl/table.h"
#include "ctl/unit_jobs.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// The time for all clients to leave; TimeoutStopSec= of the units of
// connections is the same.
constexpr absl::Duration kTimeout = absl::Minutes(2);
// How often the connections are listed: a client that a socket has accepted
// before it was stopped may get its process later.
constexpr absl::Duration kNextList = absl::Milliseconds(200);

absl::Status CheckUsage(const CommandLine& line) {
  if (line.all == line.arguments.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      line.verb, " needs the names of exports, or --all for all of them"));
}

absl::StatusOr<std::vector<ManagedExport>> Chosen(
    const CommandLine& line, const std::vector<ManagedExport>& exports) {
  std::vector<ManagedExport> chosen;
  for (const ManagedExport& target : exports) {
    if (line.all && target.has_units && !IsUnused(target)) {
      chosen.push_back(target);
    }
  }
  for (const std::string& name : line.arguments) {
    absl::StatusOr<ManagedExport> target = FindExport(exports, name);
    if (!target.ok()) return target.status();
    if (!target->has_units) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(name), " has no units: ", target->reason));
    }
    chosen.push_back(*std::move(target));
  }
  return chosen;
}

// Marks the exports, so that nothing starts them again.
absl::Status Mark(Bus& bus, const CommandLine& line,
                  const std::vector<ManagedExport>& targets) {
  const Lasts lasts = line.runtime ? Lasts::kUntilReboot : Lasts::kUntilEnded;
  // A load balancer that asks the agent sends no more clients from here on.
  if (line.all) {
    absl::Status status = MarkMachine(line.where, lasts);
    if (!status.ok()) return status;
  }
  for (const ManagedExport& target : targets) {
    const bool listens = target.state == "listening" ||
                         target.state == "running" ||
                         target.state == "activating";
    absl::Status status =
        MarkUnit(line.where, target.main_unit(), lasts, listens);
    if (!status.ok()) return status;
  }
  return bus.Reload();
}

// Lets a listener that can't hand over end: it drains its connections.
absl::Status DrainListener(Bus& bus, const std::string& service) {
  LiveConnection listener;
  listener.unit = service;
  listener.pid = bus.GetNumber(service, "Service", "MainPID");
  const UniqueFd pidfd = OpenClientProcess(listener);
  int error = pidfd.valid() ? 0 : errno;
  if (error == 0 && !WaitsFor(*listener.pid, kDrainSignal)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "failed to drain ", service,
        ": its process has just started, or is an older one, which doesn't "
        "know the signal"));
  }
  if (error == 0) error = SendSignal(pidfd, kDrainSignal);
  if (error == 0 || error == ESRCH) return absl::OkStatus();
  return ErrnoStatus(error, absl::StrCat("failed to drain ", service));
}

// Nobody is accepted any more; connections go on.
absl::Status StopListening(Bus& bus,
                           const std::vector<ManagedExport>& targets) {
  std::vector<std::string> sockets;
  for (const ManagedExport& target : targets) {
    if (!target.socket.empty()) sockets.push_back(target.socket);
  }
  absl::Status status;
  if (!sockets.empty()) status = RunJobs(bus, "StopUnit", sockets);
  for (const ManagedExport& target : targets) {
    if (!status.ok()) return status;
    if (target.per_connection ||
        bus.GetString(target.service, "Unit", "ActiveState") != "active") {
      continue;
    }
    const bool hands_over = HandsOver(bus, target.service);
    status = hands_over ? StopListener(bus, target.service)
                        : DrainListener(bus, target.service);
    // A reload starts a process, for which systemd sets up the sandbox of the
    // service. It can't where the storage is gone; the signal needs nothing.
    if (hands_over && !status.ok() && DrainListener(bus, target.service).ok()) {
      status = absl::OkStatus();
    }
  }
  return status;
}

// Drains the connections in `draining`, and those whose processes start
// meanwhile.
absl::StatusOr<std::vector<Outcome>> DrainAll(
    Bus& bus, const CommandLine& line,
    const std::vector<ManagedExport>& targets, DrainingConnections& draining) {
  const absl::Time deadline = SteadyNow() + line.timeout.value_or(kTimeout);
  for (;;) {
    absl::StatusOr<LiveConnections> found =
        FindConnections(bus, line.where, targets);
    if (!found.ok()) return found.status();
    const bool all_known = draining.Add(std::move(found->connections));
    if (all_known && draining.all_have_left()) break;
    const absl::Time now = SteadyNow();
    draining.Wait(std::min(deadline, now + kNextList));
    if (now >= deadline) break;
    if (!all_known) poll(nullptr, 0, /*timeout=*/20);
  }
  return draining.TakeOutcomes();
}

void PrintSummary(const std::vector<Outcome>& outcomes, absl::Duration took) {
  const auto left = static_cast<size_t>(
      std::count_if(outcomes.begin(), outcomes.end(),
                    [](const Outcome& one) { return one.has_left; }));
  const std::string time = ReadableSpan(took);
  if (outcomes.empty()) {
    Warn("drained; nobody was connected");
  } else if (left == outcomes.size()) {
    Warn(absl::StrCat("drained: ", Counted(left, "client"), " left in ", time));
  } else {
    Warn(absl::StrCat(left, " of ", Counted(outcomes.size(), "client"),
                      " left in ", time,
                      "; nobody else is accepted: repeat the command, or end "
                      "the others by 'nbdinetctl disconnect'"));
  }
}

// Starts what the mark says. What was done, in words.
absl::StatusOr<std::string> Restart(Bus& bus, const ManagedExport& target,
                                    bool starts) {
  if (!starts) return std::string("it may start again, and wasn't listening");
  absl::Status status = RunJobs(bus, "StartUnit", {target.main_unit()});
  if (!status.ok()) return status;
  return absl::StrCat("started ", target.main_unit());
}

// An export whose mark is gone, and whether it should start.
struct Unmarked {
  ManagedExport target;
  std::optional<bool> starts;
};

absl::StatusOr<std::vector<Unmarked>> Unmark(
    Bus& bus, const CommandLine& line,
    const std::vector<ManagedExport>& targets) {
  std::vector<Unmarked> unmarked;
  for (const ManagedExport& target : targets) {
    absl::StatusOr<std::optional<bool>> starts =
        UnmarkUnit(line.where, target.main_unit());
    if (!starts.ok()) return starts.status();
    if (!line.all || starts->has_value()) unmarked.push_back({target, *starts});
  }
  if (line.all) {
    absl::Status status = UnmarkMachine(line.where);
    if (!status.ok()) return status;
  }
  absl::Status status = bus.Reload();
  if (!status.ok()) return status;
  return unmarked;
}

}  // namespace

absl::StatusOr<int> Drain(const CommandLine& line) {
  absl::Status status = CheckUsage(line);
  if (!status.ok()) return status;
  const absl::Time start = SteadyNow();
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  Bus& bus = opened->bus;
  const absl::StatusOr<std::vector<ManagedExport>> targets =
      Chosen(line, opened->exports);
  if (!targets.ok()) return targets.status();
  status = Mark(bus, line, *targets);
  if (!status.ok()) return status;
  // Some may have left once nobody listens.
  DrainingConnections draining;
  absl::StatusOr<LiveConnections> found =
      FindConnections(bus, line.where, *targets);
  if (!found.ok()) return found.status();
  draining.Add(std::move(found->connections));
  status = StopListening(bus, *targets);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<Outcome>> outcomes =
      DrainAll(bus, line, *targets, draining);
  if (!outcomes.ok()) return outcomes.status();
  const absl::Duration took = SteadyNow() - start;
  ReadLastMessages(line.where, *outcomes);
  absl::StatusOr<int> result = PrintOutcomes(line, *outcomes);
  if (result.ok()) PrintSummary(*outcomes, took);
  return result;
}

absl::StatusOr<int> Undrain(const CommandLine& line) {
  absl::Status status = CheckUsage(line);
  if (!status.ok()) return status;
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  const absl::StatusOr<std::vector<ManagedExport>> targets =
      Chosen(line, opened->exports);
  if (!targets.ok()) return targets.status();
  const absl::StatusOr<std::vector<Unmarked>> unmarked =
      Unmark(opened->bus, line, *targets);
  if (!unmarked.ok()) return unmarked.status();
  Table table(ActionColumns());
  bool good = true;
  for (const auto& [target, starts] : *unmarked) {
    if (!starts.has_value()) {
      table.AddRow({target.name, "it wasn't drained"});
      continue;
    }
    const absl::StatusOr<std::string> done =
        Restart(opened->bus, target, *starts);
    good = good && done.ok();
    table.AddRow({target.name,
                  done.ok() ? *done : std::string(done.status().message())});
  }
  status = PrintTable(line, table);
  if (!status.ok()) return status;
  return good ? kSuccess : kFailed;
}

}  // namespace nbdinetd::ctl
