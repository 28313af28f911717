// What one thread wakes another by that waits in poll(2).
#ifndef NBDINETD_BASE_EVENT_FD_H_
#define NBDINETD_BASE_EVENT_FD_H_

#include <sys/eventfd.h>

#include "base/unique_fd.h"

namespace nbdinetd {

// Not valid when the process or the system can have no more descriptors.
inline UniqueFd CreateEventFd() {
  return UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_EVENT_FD_H_
