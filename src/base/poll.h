// poll(2) until a point in time.
#ifndef NBDINETD_BASE_POLL_H_
#define NBDINETD_BASE_POLL_H_

#include <poll.h>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace nbdinetd {

// Waits until one of `fds` is ready or until `deadline`, a SteadyNow() that may
// be infinite. Returns the number of ready descriptors; 0 after the deadline.
// Entries with descriptor -1 are ignored. It never fails: the signals that
// nbdinetd handles are blocked.
int PollUntil(absl::Span<pollfd> fds, absl::Time deadline);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_POLL_H_
