#include "cli/image_user.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "export/image_lock.h"

namespace nbdinetd {

std::optional<ImageUser> FindImageUser(int fd) {
  const ImageUse use = ImageUseOf(fd);
  if (!use.is_used) return std::nullopt;
  ImageUser user;
  user.writes = use.is_written_to;
  // Its description with the lock.
  user.process = FindFileUser(fd, [](const std::string& fdinfo) {
    return absl::StrContains(fdinfo, "OFDLCK");
  });
  return user;
}

std::string InWords(const ImageUser& user) {
  return user.process.has_value()
             ? absl::StrCat("QEMU (", InWords(*user.process), ")")
             : "QEMU (its process isn't visible to this user)";
}

}  // namespace nbdinetd
