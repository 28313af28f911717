#include "base/service_manager.h"

#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/datagram_socket.h"

namespace nbdinetd {

namespace {

// The time within which the service manager wants to hear from this process
// (sd_watchdog_enabled(3)); InfiniteDuration() when it doesn't.
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
  socket_ = ConnectDatagramSocket(name);
  // "recommended ... every half of the time" (sd_watchdog_enabled(3)).
  if (present()) interval_ = WatchdogTimeout() / 2;
}

void ServiceManager::Notify(const std::string& state) {
  if (present()) SendDatagram(socket_.get(), state);
}

void ServiceManager::Ready(absl::string_view status) {
  Notify(absl::StrCat("READY=1\nSTATUS=", status));
}

void ServiceManager::Stopping(absl::string_view status) {
  Notify(absl::StrCat("STOPPING=1\nSTATUS=", status));
}

void ServiceManager::Status(absl::string_view status) {
  Notify(absl::StrCat("STATUS=", status));
}

void ServiceManager::KeepAlive() { Notify("WATCHDOG=1"); }

void ServiceManager::Forget() {
  socket_.Reset();
  interval_ = absl::InfiniteDuration();
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
}

}  // namespace nbdinetd
