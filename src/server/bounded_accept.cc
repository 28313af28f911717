#include "server/bounded_accept.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>

namespace nbdinetd {
namespace {

void Interrupt(int) {}

// A signal that comes before the call would be lost: the timer repeats it.
constexpr timeval kInterval = {.tv_sec = 0, .tv_usec = 10'000};
constexpr itimerval kRepeatedly = {.it_interval = kInterval,
                                   .it_value = kInterval};
constexpr itimerval kNever = {};

}  // namespace

BoundedAccept::BoundedAccept() {
  struct sigaction action = {};
  action.sa_handler = Interrupt;  // without SA_RESTART
  sigaction(SIGALRM, &action, &action_before_);
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &alarm, &mask_before_);
}

BoundedAccept::~BoundedAccept() {
  pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  sigaction(SIGALRM, &action_before_, nullptr);
}

UniqueFd BoundedAccept::Accept(int socket) const {
  setitimer(ITIMER_REAL, &kRepeatedly, nullptr);
  UniqueFd connection(accept4(socket, nullptr, nullptr, SOCK_CLOEXEC));
  const int error = errno == EINTR ? EAGAIN : errno;
  setitimer(ITIMER_REAL, &kNever, nullptr);
  errno = error;
  return connection;
}

}  // namespace nbdinetd
