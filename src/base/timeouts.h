// How long a peer may take.
#ifndef NBDINETD_BASE_TIMEOUTS_H_
#define NBDINETD_BASE_TIMEOUTS_H_

#include "absl/time/time.h"
#include "base/limits.h"

namespace nbdinetd {

// Each may be InfiniteDuration(), for no limit.
struct Timeouts {
  // From the start of the connection to the end of negotiation.
  absl::Duration handshake = kHandshakeTimeout;
  // Without progress in the middle of a message, in either direction.
  absl::Duration stall = kStallTimeout;
  // Between two requests, when no reply is owed.
  absl::Duration idle = absl::InfiniteDuration();
  // Without an answer of the machine of a silent TCP peer; from two seconds on.
  absl::Duration keepalive = kKeepalive;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_TIMEOUTS_H_
