// The administrator's choices for private copies. Plain values.
#ifndef NBDINETD_EXPORT_COPY_SETTINGS_H_
#define NBDINETD_EXPORT_COPY_SETTINGS_H_

#include <cstdint>
#include <limits>
#include <string>

namespace nbdinetd {

struct CopySettings {
  bool enabled = false;
  bool in_memory = false;
  // The directory of the copies. Empty: what systemd gives to the unit
  // ($STATE_DIRECTORY, $RUNTIME_DIRECTORY), or /var/tmp.
  std::string directory = {};
  // What one copy may occupy.
  uint64_t max_bytes = std::numeric_limits<uint64_t>::max();
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_COPY_SETTINGS_H_
