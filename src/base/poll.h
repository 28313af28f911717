// poll(2) until a point in time.
#ifndef NBDINETD_BASE_POLL_H_
#define NBDINETD_BASE_POLL_H_

#include <poll.h>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace nbdinetd {

// Waits until one of `fds` is ready, and returns how many are; 0 when
// `deadline`, a SteadyNow() that may be infinite, has passed. A descriptor of
// -1 is left out. It never fails: the signals that we know are blocked.
int PollUntil(absl::Span<pollfd> fds, absl::Time deadline);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_POLL_H_
