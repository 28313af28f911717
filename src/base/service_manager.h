// Sends status and watchdog messages to the service manager: sd_notify(3).
//
// A listener or connection that the manager's watchdog watches waits in
// PollUntil() in every phase, which sends WATCHDOG=1 when it is due. The
// messages stop when the process neither waits nor calls KeepAlive(); the
// watchdog detects that. Without NOTIFY_SOCKET nothing is sent. A manager that
// doesn't read can't block the process (see message_socket.h); READY=1 and
// STOPPING=1 are sent again with the next message until they are delivered.
// Threads: one.
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
  // Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
  ServiceManager();

  // False without a service manager; callers then needn't compose a status.
  bool present() const { return socket_.valid(); }
  // `status` is a sentence for `systemctl status`. False when the message
  // wasn't delivered.
  bool Ready(absl::string_view status);
  bool Stopping(absl::string_view status);
  bool Status(absl::string_view status);
  // The same for a status that another one replaces soon: it is dropped when
  // the manager's socket is full, instead of waiting.
  void PassingStatus(absl::string_view status);
  // Sends WATCHDOG=1 if it is due: for code that works long without waiting.
  // Without a watchdog it costs one comparison.
  void KeepAlive() {
    if (next_ != absl::InfiniteFuture()) KeepAliveIfDue();
  }
  // Waits as nbdinetd::PollUntil() does, and sends WATCHDOG=1 when it is due.
  int PollUntil(absl::Span<pollfd> fds, absl::Time deadline);

  // For a forked process, which the service manager doesn't watch: closes the
  // socket, and unsets the variables.
  void Forget();

 private:
  // `lasting` is kept, and sent again with later messages, until it is
  // delivered.
  bool Notify(absl::string_view lasting, absl::string_view passing);
  void KeepAliveIfDue();

  MessageSocket socket_;
  std::string owed_;  // lines that aren't delivered yet
  // The interval between two WATCHDOG=1, and the time of the next; infinite
  // without a watchdog.
  absl::Duration interval_ = absl::InfiniteDuration();
  absl::Time next_ = absl::InfiniteFuture();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SERVICE_MANAGER_H_
