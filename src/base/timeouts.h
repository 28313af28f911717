// The time limits of a connection.
#ifndef NBDINETD_BASE_TIMEOUTS_H_
#define NBDINETD_BASE_TIMEOUTS_H_

#include "absl/time/time.h"
#include "base/limits.h"

namespace nbdinetd {

// Each may be InfiniteDuration(), for no limit.
struct Timeouts {
  // From the start of the connection to the end of the handshake.
  absl::Duration handshake = kHandshakeTimeout;
  // For a peer without progress inside a message, in either direction.
  absl::Duration stall = kStallTimeout;
  // For a peer that sends no request while no reply is owed to it.
  absl::Duration idle = absl::InfiniteDuration();
  // For a silent TCP peer whose machine doesn't answer; at least 2 s.
  absl::Duration keepalive = kKeepalive;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_TIMEOUTS_H_
