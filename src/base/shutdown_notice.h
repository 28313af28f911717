// How a wait notices that the process was told to end. Plain values.
#ifndef NBDINETD_BASE_SHUTDOWN_NOTICE_H_
#define NBDINETD_BASE_SHUTDOWN_NOTICE_H_

#include <functional>

namespace nbdinetd {

struct ShutdownNotice {
  // Readable when the process should end, or for something else; borrowed, and
  // -1 for never.
  int fd = -1;
  // Takes what there is. True if the process should end, also in every later
  // call. Without it, it is always a shutdown, and `fd` stays readable.
  std::function<bool()> is_shutdown = nullptr;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SHUTDOWN_NOTICE_H_
