// The clock of deadlines and intervals. It does not jump when somebody sets
// the time of day.
#ifndef NBDINETD_BASE_STEADY_CLOCK_H_
#define NBDINETD_BASE_STEADY_CLOCK_H_

#include <time.h>

#include "absl/time/time.h"

namespace nbdinetd {

// The time since the machine was started, as an absl::Time: only differences
// and comparisons with each other mean anything.
inline absl::Time SteadyNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::TimeFromTimespec(now);
}

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_STEADY_CLOCK_H_
