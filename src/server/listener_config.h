// How a listener accepts connections.
//
// cli makes it once, whole, from the options. Threads: any, since nothing
// changes it.
#ifndef NBDINETD_SERVER_LISTENER_CONFIG_H_
#define NBDINETD_SERVER_LISTENER_CONFIG_H_

#include <cstdint>
#include <limits>

#include "absl/time/time.h"
#include "server/access.h"

namespace nbdinetd {

struct ListenerConfig {
  const uint32_t max_connections = std::numeric_limits<uint32_t>::max();
  // The listener exits when nobody has been connected for so long.
  const absl::Duration exit_idle = absl::InfiniteDuration();
  // A refused connection is closed before a process is forked for it, and
  // before it counts against max_connections.
  const AccessRules access;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_LISTENER_CONFIG_H_
