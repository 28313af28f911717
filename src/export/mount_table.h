// Finds a mount in /proc/self/mountinfo (proc_pid_mountinfo(5)), which has what
// statfs(2) doesn't tell: the type of a FUSE file system, and the options.
// Threads: any.
#ifndef NBDINETD_EXPORT_MOUNT_TABLE_H_
#define NBDINETD_EXPORT_MOUNT_TABLE_H_

#include <sys/types.h>

#include <istream>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

struct Mount {
  std::string type;     // such as fuse.sshfs
  std::string options;  // of the mount and of its file system, with commas

  // Whether one of `options`, with commas between them, is among the mount's.
  bool HasOneOf(absl::string_view options) const;
};

// The first mount of the file system `device` (st_dev of stat(2)) in `table`,
// lines of mountinfo. A line that isn't one is skipped. nullopt: none.
std::optional<Mount> FindMount(std::istream& table, dev_t device);
// In that of this process; nullopt also if it can't be read.
std::optional<Mount> FindOwnMount(dev_t device);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_MOUNT_TABLE_H_
