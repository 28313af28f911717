// The counters of a connection, for the log and the service manager.
#ifndef NBDINETD_TRANSMISSION_STATISTICS_H_
#define NBDINETD_TRANSMISSION_STATISTICS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace nbdinetd {

// Every counter only grows. Threads: one.
struct Statistics {
  uint64_t requests = 0;  // without NBD_CMD_DISC
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t bytes_sent_by_sendfile = 0;  // of bytes_read
  uint64_t errors = 0;                  // error replies
  // Of the requests that went to a worker: the longest time from then until the
  // reply was sent. A request that is answered at once isn't measured, since a
  // look at the clock would be a part of its cost.
  absl::Duration longest_request;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_STATISTICS_H_
