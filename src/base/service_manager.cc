#include "base/service_manager.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/steady_clock.h"

namespace nbdinetd {

namespace {

// The watchdog's timeout (sd_watchdog_enabled(3)); InfiniteDuration() if this
// process has no watchdog.
absl::Duration WatchdogTimeout() {
  const char* timeout = getenv("WATCHDOG_USEC");
  const char* watched = getenv("WATCHDOG_PID");
  int64_t usec = 0;
  pid_t pid = 0;
  if (timeout == nullptr || !absl::SimpleAtoi(timeout, &usec) || usec <= 0 ||
      (watched != nullptr &&
       !(absl::SimpleAtoi(watched, &pid) && pid == getpid()))) {
    return absl::InfiniteDuration();
  }
  return absl::Microseconds(usec);
}

}  // namespace

ServiceManager::ServiceManager() {
  const char* name = getenv("NOTIFY_SOCKET");
  if (name == nullptr) return;
  socket_ = MessageSocket(name);
  // "recommended ... every half of the time" (sd_watchdog_enabled(3)).
  if (present()) interval_ = WatchdogTimeout() / 2;
  // The first one is due at once: the manager's timer already runs.
  if (interval_ != absl::InfiniteDuration()) next_ = absl::InfinitePast();
}

bool ServiceManager::Notify(absl::string_view lasting,
                            absl::string_view passing) {
  if (!present()) return true;
  absl::StrAppend(&owed_, lasting);
  const bool heard = socket_.Send(absl::StrCat(owed_, passing));
  if (heard) owed_.clear();
  return heard;
}

bool ServiceManager::Ready(absl::string_view status) {
  return Notify("READY=1\n", absl::StrCat("STATUS=", status));
}

bool ServiceManager::Stopping(absl::string_view status) {
  return Notify("STOPPING=1\n", absl::StrCat("STATUS=", status));
}

bool ServiceManager::Status(absl::string_view status) {
  return Notify("", absl::StrCat("STATUS=", status));
}

void ServiceManager::PassingStatus(absl::string_view status) {
  if (present()) socket_.SendIfRoom(absl::StrCat("STATUS=", status));
}

void ServiceManager::KeepAliveIfDue() {
  const absl::Time now = SteadyNow();
  if (now < next_) return;
  Notify("", "WATCHDOG=1");
  next_ = now + interval_;
}

int ServiceManager::PollUntil(absl::Span<pollfd> fds, absl::Time deadline) {
  for (;;) {
    KeepAlive();
    const int ready = nbdinetd::PollUntil(fds, std::min(deadline, next_));
    // Only the wait for the next WATCHDOG=1 may be over, and not the caller's.
    if (ready != 0 || next_ >= deadline) return ready;
  }
}

void ServiceManager::Forget() {
  socket_ = MessageSocket();
  owed_.clear();
  interval_ = absl::InfiniteDuration();
  next_ = absl::InfiniteFuture();
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
}

}  // namespace nbdinetd
