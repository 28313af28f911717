// What a kept copy remembers of its base, to see whether that has changed.
//
// A change of the middle of a block device, or one of a file that sets its time
// back, isn't seen. The numbers of devices aren't compared: they may differ
// after each start of the machine. Threads: one.
#ifndef NBDINETD_EXPORT_BASE_FACTS_H_
#define NBDINETD_EXPORT_BASE_FACTS_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "export/export.h"

namespace nbdinetd {

// The time of a file's last change, in nanoseconds since 1970.
uint64_t TimeOfChange(const struct stat& st);

struct BaseFacts {
  uint64_t size_bytes = 0;  // of the export
  // 0 for a block device.
  uint64_t inode = 0;
  uint64_t mtime_ns = 0;
  // Of the first and of the last MiB of the export.
  uint64_t first_digest = 0;
  uint64_t last_digest = 0;
};

// Reads up to 2 MiB. Unavailable when that fails.
absl::StatusOr<BaseFacts> ReadBaseFacts(Export& base);

// What has changed, as "its size and its first MiB"; empty if nothing has.
std::string ChangesOf(const BaseFacts& before, const BaseFacts& now);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_BASE_FACTS_H_
