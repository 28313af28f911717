// What the service manager hears from us: sd_notify(3).
//
// A process that the manager's watchdog watches waits here, and says WATCHDOG=1
// whenever it is due: a listener and a connection, in every phase. So a process
// is only silent while it neither waits nor comes round to it, which is what a
// watchdog is for. Without NOTIFY_SOCKET everything here does nothing but wait.
// A manager that doesn't read holds up nobody (see message_socket.h); what it
// has to know, it is told again with the next message. Threads: one.
#ifndef NBDINETD_BASE_SERVICE_MANAGER_H_
#define NBDINETD_BASE_SERVICE_MANAGER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/message_socket.h"
#include "base/poll.h"

namespace nbdinetd {

class ServiceManager {
 public:
  // Reads NOTIFY_SOCKET, and whether a watchdog wants to hear from this
  // process.
  ServiceManager();

  // Nobody listens, and there is no need to make up a status.
  bool present() const { return socket_.valid(); }
  // STATUS= is a sentence for `systemctl status`. These return false when the
  // manager hasn't heard it.
  bool Ready(absl::string_view status);
  bool Stopping(absl::string_view status);
  bool Status(absl::string_view status);
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
  // `lasting`: what the manager waits for, and still has to hear if it hasn't.
  bool Notify(absl::string_view lasting, absl::string_view passing);
  void KeepAliveIfDue();

  MessageSocket socket_;
  std::string owed_;  // lines that it hasn't heard
  // How often WATCHDOG=1 is said, and when next; infinite without a watchdog.
  absl::Duration interval_ = absl::InfiniteDuration();
  absl::Time next_ = absl::InfiniteFuture();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SERVICE_MANAGER_H_
