#include "base/signals.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "base/errors.h"

namespace nbdinetd {

absl::StatusOr<Signals> Signals::Create(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : numbers) {
    // A signal that the parent process has set to be ignored (nohup, a shell's
    // "&") stays ignored: once blocked, it would be queued. SIGCHLD and SIGURG
    // are ignored by default, so SIG_IGN isn't the parent's choice for them.
    struct sigaction action;
    sigaction(number, nullptr, &action);
    if (action.sa_handler == SIG_IGN && number != SIGCHLD && number != SIGURG) {
      continue;
    }
    sigaddset(&set, number);
  }
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "failed to create a signalfd");
  return Signals(std::move(fd));
}

std::optional<Signals::Signal> Signals::Take() {
  signalfd_siginfo info;
  if (read(fd_.get(), &info, sizeof(info)) != sizeof(info)) return std::nullopt;
  return Signal{static_cast<int>(info.ssi_signo),
                info.ssi_code == SI_QUEUE ? info.ssi_ptr : 0};
}

}  // namespace nbdinetd
