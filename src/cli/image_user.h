// Finds out whether a virtual machine uses an image.
//
// The kernel reports QEMU's locks (export/image_lock.h), but not their owner,
// which is looked for in /proc. Nothing is locked here. Threads: any.
#ifndef NBDINETD_CLI_IMAGE_USER_H_
#define NBDINETD_CLI_IMAGE_USER_H_

#include <sys/types.h>

#include <optional>
#include <string>

namespace nbdinetd {

// A virtual machine, or another program that locks images as QEMU does.
struct ImageUser {
  bool writes = false;
  // 0 and empty if /proc doesn't show the process to this one.
  pid_t pid = 0;
  std::string program;
};

// The user of the file or device at `fd`, a descriptor of this process; nullopt
// when no process locks it as QEMU does.
std::optional<ImageUser> FindImageUser(int fd);

// Describes the user for people: "QEMU (process 4711, qemu-system-x86)".
std::string InWords(const ImageUser& user);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_IMAGE_USER_H_
