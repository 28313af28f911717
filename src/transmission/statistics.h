// The counters of a connection, for the log and the service manager.
#ifndef NBDINETD_TRANSMISSION_STATISTICS_H_
#define NBDINETD_TRANSMISSION_STATISTICS_H_

#include <cstdint>

namespace nbdinetd {

// Every counter only grows. Threads: one.
struct Statistics {
  uint64_t requests = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t errors = 0;  // error replies
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_STATISTICS_H_
