// What the service manager hears from us: sd_notify(3).
//
// A process that the manager's watchdog watches waits here, and says WATCHDOG=1
// whenever it is due: a listener and a connection, in every phase. So a process is
// only silent while it neither waits nor comes round to it, which is what a
// watchdog is for. Without NOTIFY_SOCKET everything here does nothing but wait.
// Threads: one.
#ifndef NBDINETD_BASE_SERVICE_MANAGER_H_
#define NBDINETD_BASE_SERVICE_MANAGER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/poll.h"
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
  // Says WATCHDOG=1 if it is time to; for who works for long without a wait.
  // Without a watchdog it costs a comparison.
  void KeepAlive() {
    if (next_ != absl::InfiniteFuture()) KeepAliveIfDue();
  }
  // Waits as PollUntil() does, and says WATCHDOG=1 meanwhile.
  int PollUntil(absl::Span<pollfd> fds, absl::Time deadline);

  // For a process forked off: it is not what the service manager watches.
  void Forget();

 private:
  void Notify(const std::string& state);
  void KeepAliveIfDue();

  UniqueFd socket_;
  // How often WATCHDOG=1 is said, and when next; infinite without a watchdog.
  absl::Duration interval_ = absl::InfiniteDuration();
  absl::Time next_ = absl::InfiniteFuture();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SERVICE_MANAGER_H_
