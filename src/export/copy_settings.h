// The administrator's choices for private copies. Plain values.
#ifndef NBDINETD_EXPORT_COPY_SETTINGS_H_
#define NBDINETD_EXPORT_COPY_SETTINGS_H_

#include <cstdint>
#include <limits>
#include <string>

namespace nbdinetd {

// How a client is known that comes back to its kept copy.
enum class CopyKey {
  kTls,          // by its PSK identity, or the subject of its certificate
  kPeerAddress,  // by its IP address
};

struct CopySettings {
  bool enabled = false;
  bool in_memory = false;
  // The directory of the copies. Empty: what systemd gives to the unit
  // ($STATE_DIRECTORY, $RUNTIME_DIRECTORY), or /var/tmp; for kept copies only
  // $STATE_DIRECTORY, since the others are emptied.
  std::string directory = {};
  // What one copy may occupy.
  uint64_t max_bytes = std::numeric_limits<uint64_t>::max();
  // A copy is kept when the connection ends, for the same client.
  bool keep = false;
  CopyKey key = CopyKey::kTls;
  bool key_given = false;
  // A kept copy whose base has changed begins anew; otherwise it is refused.
  bool discard_stale = false;
  bool stale_given = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_COPY_SETTINGS_H_
