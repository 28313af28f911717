// The clock of deadlines and intervals. A change of the time of day doesn't
// affect it.
#ifndef NBDINETD_BASE_STEADY_CLOCK_H_
#define NBDINETD_BASE_STEADY_CLOCK_H_

#include <time.h>

#include "absl/time/time.h"

namespace nbdinetd {

// CLOCK_MONOTONIC as an absl::Time; it may only be compared with, or subtracted
// from, another SteadyNow().
inline absl::Time SteadyNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::TimeFromTimespec(now);
}

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_STEADY_CLOCK_H_
