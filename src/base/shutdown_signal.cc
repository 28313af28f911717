#include "base/shutdown_signal.h"

#include <signal.h>
#include <sys/signalfd.h>

#include <cerrno>

#include "base/errors.h"

namespace nbdinetd {

absl::StatusOr<ShutdownSignal> ShutdownSignal::Create() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "failed to create a signalfd");
  return ShutdownSignal(std::move(fd));
}

}  // namespace nbdinetd
