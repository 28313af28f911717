#include "export/file_user.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/file_status.h"

namespace nbdinetd {
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

std::string ContentOf(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Whether an open file may have this inode number, which fdinfo tells since
// Linux 5.14.
bool MayBeInode(const std::string& fdinfo, ino_t inode) {
  for (absl::string_view line : absl::StrSplit(fdinfo, '\n')) {
    uint64_t number = 0;
    if (absl::ConsumePrefix(&line, "ino:") && absl::SimpleAtoi(line, &number)) {
      return number == inode;
    }
  }
  return true;
}

// As the kernel knows it: the storage of any file on this machine may not
// answer any more, and this isn't about it.
bool StatWithoutAsking(const std::string& path, struct statx* st) {
  return statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
               STATX_TYPE | STATX_INO, st) == 0;
}

// Two nodes of one block device are the same device.
bool IsSame(const struct stat& a, const struct statx& b) {
  if (S_ISBLK(a.st_mode)) {
    return S_ISBLK(b.stx_mode) &&
           a.st_rdev == makedev(b.stx_rdev_major, b.stx_rdev_minor);
  }
  return a.st_dev == makedev(b.stx_dev_major, b.stx_dev_minor) &&
         a.st_ino == b.stx_ino;
}

}  // namespace

std::optional<FileUser> FindFileUser(
    int fd, absl::FunctionRef<bool(const std::string& fdinfo)> counts) {
  struct stat file;
  if (FileStatus(fd, &file) != 0) return std::nullopt;
  for (const std::string& process : NumbersIn("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(process, &pid) || pid == getpid()) continue;
    const std::string folder = absl::StrCat("/proc/", process);
    for (const std::string& number : NumbersIn(folder + "/fd")) {
      const std::string info =
          ContentOf(absl::StrCat(folder, "/fdinfo/", number));
      struct statx st;
      if ((!S_ISBLK(file.st_mode) && !MayBeInode(info, file.st_ino)) ||
          !counts(info) ||
          !StatWithoutAsking(absl::StrCat(folder, "/fd/", number), &st) ||
          !IsSame(file, st)) {
        continue;
      }
      return FileUser{pid, std::string(absl::StripSuffix(
                               ContentOf(folder + "/comm"), "\n"))};
    }
  }
  return std::nullopt;
}

std::string InWords(const FileUser& user) {
  return absl::StrCat("process ", user.pid, user.program.empty() ? "" : ", ",
                      user.program.empty() ? "" : Quoted(user.program));
}

}  // namespace nbdinetd
