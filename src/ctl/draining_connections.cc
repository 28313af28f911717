#include "ctl/draining_connections.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/poll.h"
#include "base/shutdown_notice.h"
#include "base/steady_clock.h"
#include "ctl/client_process.h"

namespace nbdinetd::ctl {
namespace {

// Between two attempts to tell a process that has just started.
constexpr absl::Duration kNextAttempt = absl::Milliseconds(20);

}  // namespace

bool DrainingConnections::Add(std::vector<LiveConnection> found) {
  bool all = true;
  for (LiveConnection& connection : found) {
    if (!connection.pid.has_value()) {
      all = false;
      continue;
    }
    const bool known = absl::c_any_of(connections_, [&](const Draining& other) {
      return other.connection.pid == connection.pid &&
             other.connection.unit == connection.unit;
    });
    if (!known) connections_.push_back({.connection = std::move(connection)});
  }
  return all;
}

void DrainingConnections::Tell(Draining& draining) {
  const LiveConnection& connection = draining.connection;
  if (!draining.pidfd.valid()) draining.pidfd = OpenClientProcess(connection);
  int error = draining.pidfd.valid() ? 0 : errno;
  if (error == 0 && !WaitsFor(*connection.pid, kDrainSignal)) {
    draining.trouble = "its process has just started, or is an older one";
    // It may have ended since.
    error = SendSignal(draining.pidfd, 0);
  } else if (error == 0) {
    error = SendSignal(draining.pidfd, kDrainSignal);
    draining.told = error == 0;
  }
  if (error == ESRCH) draining.left = true;
  if (error == EPERM) {
    draining.trouble = "run nbdinetctl as root";
    draining.given_up = true;
  }
  if (error != 0 && error != EPERM) draining.trouble = ErrnoText(error);
}

bool DrainingConnections::all_have_left() const {
  return absl::c_all_of(connections_, [](const Draining& draining) {
    return draining.left || draining.given_up;
  });
}

void DrainingConnections::Wait(absl::Time until) {
  // Once in any case: all are told.
  while (!all_have_left()) {
    WaitOnce(until);
    if (SteadyNow() >= until) return;
  }
}

void DrainingConnections::WaitOnce(absl::Time until) {
  std::vector<pollfd> entries;
  std::vector<Draining*> waited_for;
  for (Draining& draining : connections_) {
    if (draining.left || draining.given_up) continue;
    if (!draining.told) Tell(draining);
    if (draining.left || draining.given_up) continue;
    if (!draining.told) until = std::min(until, SteadyNow() + kNextAttempt);
    entries.push_back({draining.pidfd.get(), POLLIN, 0});
    waited_for.push_back(&draining);
  }
  PollUntil(absl::MakeSpan(entries), until);
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].revents == 0) continue;
    waited_for[i]->left = true;
    waited_for[i]->pidfd.Reset();
  }
}

std::vector<Outcome> DrainingConnections::TakeOutcomes() {
  std::vector<Outcome> outcomes;
  for (Draining& draining : connections_) {
    const std::string failure =
        draining.told ? absl::StrCat("failed: its process ",
                                     *draining.connection.pid, " still drains")
                      : absl::StrCat("failed: ", draining.trouble);
    outcomes.push_back({std::move(draining.connection),
                        draining.left ? kDisconnected : failure,
                        draining.left});
  }
  connections_.clear();
  return outcomes;
}

}  // namespace nbdinetd::ctl
