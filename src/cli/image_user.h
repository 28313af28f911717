// Finds out whether a virtual machine uses an image.
//
// The kernel reports QEMU's locks (export/image_lock.h), but not their owner,
// which is looked for in /proc. Nothing is locked here. Threads: any.
#ifndef NBDINETD_CLI_IMAGE_USER_H_
#define NBDINETD_CLI_IMAGE_USER_H_

#include <optional>
#include <string>

#include "export/file_user.h"

namespace nbdinetd {

// A virtual machine, or another program that locks images as QEMU does.
struct ImageUser {
  bool writes = false;
  // nullopt if /proc doesn't show the process to this one.
  std::optional<FileUser> process;
};

// The user of the file or device at `fd`, a descriptor of this process; nullopt
// when no process locks it as QEMU does.
std::optional<ImageUser> FindImageUser(int fd);

// Describes the user for people: "QEMU (process 4711, qemu-system-x86)".
std::string InWords(const ImageUser& user);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_IMAGE_USER_H_
