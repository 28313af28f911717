#include "cli/image_user.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "export/image_lock.h"

namespace nbdinetd {
namespace {

std::vector<std::string> EntriesOf(const std::string& path) {
  std::vector<std::string> names;
  DIR* folder = opendir(path.c_str());
  if (folder == nullptr) return names;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(folder);
  return names;
}

std::string ContentOf(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Whether a process has the file open by a description with a lock.
bool Locks(const std::string& process, const struct stat& image) {
  const std::string descriptors = absl::StrCat(process, "/fd/");
  for (const std::string& number : EntriesOf(descriptors)) {
    struct stat st;
    if (stat(absl::StrCat(descriptors, number).c_str(), &st) != 0 ||
        st.st_dev != image.st_dev || st.st_ino != image.st_ino) {
      continue;
    }
    const std::string info =
        ContentOf(absl::StrCat(process, "/fdinfo/", number));
    if (absl::StrContains(info, "OFDLCK")) return true;
  }
  return false;
}

}  // namespace

std::optional<ImageUser> FindImageUser(int fd) {
  const ImageUse use = ImageUseOf(fd);
  if (!use.is_used) return std::nullopt;
  ImageUser user;
  user.writes = use.is_written_to;
  struct stat image;
  if (fstat(fd, &image) != 0) return user;
  for (const std::string& name : EntriesOf("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(name, &pid) || pid == getpid()) continue;
    const std::string process = absl::StrCat("/proc/", name);
    if (!Locks(process, image)) continue;
    user.pid = pid;
    user.program = std::string(
        absl::StripSuffix(ContentOf(absl::StrCat(process, "/comm")), "\n"));
    break;
  }
  return user;
}

std::string InWords(const ImageUser& user) {
  return user.pid == 0 ? "QEMU (its process isn't visible to this user)"
                       : absl::StrCat("QEMU (process ", user.pid, ", ",
                                      Quoted(user.program), ")");
}

}  // namespace nbdinetd
