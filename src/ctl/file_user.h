// Finds out whether another process has a file open, whether it locks it or
// not. Threads: any.
#ifndef NBDINETD_CTL_FILE_USER_H_
#define NBDINETD_CTL_FILE_USER_H_

#include <sys/types.h>

#include <optional>
#include <string>

namespace nbdinetd::ctl {

struct FileUser {
  pid_t pid;
  std::string program;  // empty if it has just ended
};

// A process that has the file or block device at `fd` open, by any of its
// names. Only processes whose descriptors this one may see in /proc are found:
// as root, those of this PID namespace.
std::optional<FileUser> FindFileUser(int fd);

// "process 4711, \"nbdinetd\"".
std::string InWords(const FileUser& user);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_FILE_USER_H_
