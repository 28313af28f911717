// Finds out which other process has a file open.
//
// It looks at the open files of all processes, of which the storage of any may
// not answer any more: it only asks the kernel about them. Threads: any.
#ifndef NBDINETD_EXPORT_FILE_USER_H_
#define NBDINETD_EXPORT_FILE_USER_H_

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/functional/function_ref.h"

namespace nbdinetd {

struct FileUser {
  pid_t pid;
  std::string program;  // empty if it has just ended
};

// A process that has the file or block device at `fd` open, by any of its
// names, and by a descriptor that `counts` accepts by its text in
// /proc/PID/fdinfo. Only processes whose descriptors this one may see in /proc
// are found: as root, those of this PID namespace.
std::optional<FileUser> FindFileUser(
    int fd, absl::FunctionRef<bool(const std::string& fdinfo)> counts);

// "process 4711, \"nbdinetd\"".
std::string InWords(const FileUser& user);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_FILE_USER_H_
