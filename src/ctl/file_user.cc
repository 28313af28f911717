#include "ctl/file_user.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"

namespace nbdinetd::ctl {
namespace {

std::vector<std::string> NumbersIn(const std::string& path) {
  std::vector<std::string> numbers;
  DIR* const stream = opendir(path.c_str());
  if (stream == nullptr) return numbers;
  while (const dirent* entry = readdir(stream)) {
    int number = 0;
    if (absl::SimpleAtoi(entry->d_name, &number)) {
      numbers.emplace_back(entry->d_name);
    }
  }
  closedir(stream);
  return numbers;
}

// Two nodes of one block device are the same device.
bool IsSame(const struct stat& a, const struct stat& b) {
  if (S_ISBLK(a.st_mode)) return S_ISBLK(b.st_mode) && a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace

std::optional<FileUser> FindFileUser(int fd) {
  struct stat file;
  if (FileStatus(fd, &file) != 0) return std::nullopt;
  for (const std::string& process : NumbersIn("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(process, &pid) || pid == getpid()) continue;
    const std::string folder = absl::StrCat("/proc/", process);
    for (const std::string& number : NumbersIn(folder + "/fd")) {
      struct stat st;
      if (stat(absl::StrCat(folder, "/fd/", number).c_str(), &st) != 0 ||
          !IsSame(file, st)) {
        continue;
      }
      FileUser user = {pid, ""};
      std::ifstream name(folder + "/comm");
      std::getline(name, user.program);
      return user;
    }
  }
  return std::nullopt;
}

std::string InWords(const FileUser& user) {
  return absl::StrCat("process ", user.pid, user.program.empty() ? "" : ", ",
                      user.program.empty() ? "" : Quoted(user.program));
}

}  // namespace nbdinetd::ctl
