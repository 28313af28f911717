// What the service manager hears from us: sd_notify(3).
//
// Without NOTIFY_SOCKET everything here does nothing. Threads: one.
#ifndef NBDINETD_BASE_SERVICE_MANAGER_H_
#define NBDINETD_BASE_SERVICE_MANAGER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class ServiceManager {
 public:
  // Reads NOTIFY_SOCKET, and whether a watchdog wants to hear from this
  // process.
  ServiceManager();

  // Nobody listens, and there is no need to make up a status.
  bool present() const { return socket_.valid(); }
  void Ready(absl::string_view status);
  void Stopping(absl::string_view status);
  // STATUS=, a sentence for `systemctl status`.
  void Status(absl::string_view status);
  void KeepAlive();
  // How often KeepAlive() is wanted; InfiniteDuration() for never.
  absl::Duration keep_alive_interval() const { return interval_; }

  // For a process forked off: it is not what the service manager watches.
  void Forget();

 private:
  void Notify(const std::string& state);

  UniqueFd socket_;
  absl::Duration interval_ = absl::InfiniteDuration();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SERVICE_MANAGER_H_
