// An eventfd(2), by which a thread wakes another one that waits in poll(2).
#ifndef NBDINETD_BASE_EVENT_FD_H_
#define NBDINETD_BASE_EVENT_FD_H_

#include <sys/eventfd.h>

#include "base/unique_fd.h"

namespace nbdinetd {

// A non-blocking eventfd; not valid when the process or the system has reached
// its limit of descriptors.
inline UniqueFd CreateEventFd() {
  return UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_EVENT_FD_H_
