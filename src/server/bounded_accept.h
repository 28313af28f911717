// accept(2) that doesn't block for long.
//
// accept4(2) has no flag for a call that doesn't wait: whether it waits is up
// to the socket's O_NONBLOCK, which processes that share the socket share, too.
// One that ends leaves the flag as it was, perhaps at the moment at which
// another one accepts a connection that a third has just taken; that would then
// wait for the next client, and see no signal. A timer therefore interrupts
// each call. Threads: one; SIGALRM belongs to this class.
#ifndef NBDINETD_SERVER_BOUNDED_ACCEPT_H_
#define NBDINETD_SERVER_BOUNDED_ACCEPT_H_

#include <signal.h>

#include "base/unique_fd.h"

namespace nbdinetd {

class BoundedAccept {
 public:
  // Handles SIGALRM until the object is destroyed.
  BoundedAccept();
  BoundedAccept(const BoundedAccept&) = delete;
  BoundedAccept& operator=(const BoundedAccept&) = delete;
  ~BoundedAccept();

  // Accepts a connection, close-on-exec. Otherwise the descriptor is invalid,
  // and errno says why: EAGAIN if there is none, also on a socket that blocks.
  UniqueFd Accept(int socket) const;

 private:
  struct sigaction action_before_;
  sigset_t mask_before_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_BOUNDED_ACCEPT_H_
