#include "cli/image_user.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "export/file_user.h"
#include "export/image_lock.h"

namespace nbdinetd {

std::optional<ImageUser> FindImageUser(int fd) {
  const ImageUse use = ImageUseOf(fd);
  if (!use.is_used) return std::nullopt;
  ImageUser user;
  user.writes = use.is_written_to;
  // Its description with the lock.
  const std::optional<FileUser> owner =
      FindFileUser(fd, [](const std::string& fdinfo) {
        return absl::StrContains(fdinfo, "OFDLCK");
      });
  if (owner.has_value()) {
    user.pid = owner->pid;
    user.program = owner->program;
  }
  return user;
}

std::string InWords(const ImageUser& user) {
  return user.pid == 0 ? "QEMU (its process isn't visible to this user)"
                       : absl::StrCat("QEMU (process ", user.pid, ", ",
                                      Quoted(user.program), ")");
}

}  // namespace nbdinetd
