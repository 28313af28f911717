// The configuration of a listener, made once from the options. Threads: any,
// since it is immutable.
#ifndef NBDINETD_SERVER_LISTENER_CONFIG_H_
#define NBDINETD_SERVER_LISTENER_CONFIG_H_

#include <cstdint>
#include <limits>

#include "absl/time/time.h"
#include "server/access.h"

namespace nbdinetd {

struct ListenerConfig {
  const uint32_t max_connections = std::numeric_limits<uint32_t>::max();
  // The listener exits after this time without a connection.
  const absl::Duration exit_idle = absl::InfiniteDuration();
  // A refused connection is closed before a process is forked for it, and isn't
  // counted against max_connections.
  const AccessRules access;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_LISTENER_CONFIG_H_
