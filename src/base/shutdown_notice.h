// How a wait notices that the process was told to end. Plain values.
#ifndef NBDINETD_BASE_SHUTDOWN_NOTICE_H_
#define NBDINETD_BASE_SHUTDOWN_NOTICE_H_

#include <signal.h>

#include <functional>

namespace nbdinetd {

// How the process should end.
enum class Shutdown {
  kNone,
  // For a client that connects again, and should see no error: what has been
  // received is carried out and answered, and then the connection is closed.
  kDrain,
  // Later requests fail with NBD_ESHUTDOWN.
  kNow,
};

// The signal for kDrain, to a connection and to a listener. That of HAProxy's
// soft stop; `systemctl kill` sends it, and KillSignal= can name it.
inline constexpr int kDrainSignal = SIGUSR1;

struct ShutdownNotice {
  // Readable when the process should end, or for something else; borrowed, and
  // -1 for never.
  int fd = -1;
  // Takes what there is. Once it isn't kNone, it never becomes less. Without
  // it, it is always kNow, and `fd` stays readable.
  std::function<Shutdown()> told = nullptr;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SHUTDOWN_NOTICE_H_
