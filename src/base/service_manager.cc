#include "base/service_manager.h"

#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/libsystemd.h"

namespace nbdinetd {

ServiceManager::ServiceManager()
    : present_(getenv("NOTIFY_SOCKET") != nullptr &&
               LibSystemd::Get() != nullptr) {
  if (!present_) return;
  uint64_t timeout_usec = 0;
  if (LibSystemd::Get()->watchdog_enabled(/*unset_environment=*/0,
                                          &timeout_usec) > 0) {
    // "recommended ... every half of the time" (sd_watchdog_enabled(3)).
    interval_ = absl::Microseconds(timeout_usec) / 2;
  }
}

void ServiceManager::Notify(const std::string& state) {
  if (!present_) return;
  LibSystemd::Get()->notify(/*unset_environment=*/0, state.c_str());
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
  present_ = false;
  interval_ = absl::InfiniteDuration();
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
}

}  // namespace nbdinetd
