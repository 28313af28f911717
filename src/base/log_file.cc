#include "base/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

absl::Status Failed(const std::string& path, absl::string_view reason) {
  return absl::AlreadyExistsError(
      absl::StrCat("failed to open log file ", Quoted(path), ": ", reason));
}

}  // namespace

absl::StatusOr<LogFile> LogFile::Open(std::string path) {
  // O_NONBLOCK: the open of a FIFO would wait for a reader.
  UniqueFd fd(open(
      path.c_str(),
      O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640));
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) != 0) {
    return Failed(path, ErrnoText(errno));
  }
  if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) {
    return Failed(path, "it is neither a regular file nor a terminal");
  }
  return LogFile(std::move(path), std::move(fd));
}

void LogFile::Append(absl::string_view line) const {
  [[maybe_unused]] const ssize_t n = write(fd_.get(), line.data(), line.size());
}

void LogFile::Follow() {
  struct stat ours, there;
  if (stat(path_.c_str(), &there) == 0 && fstat(fd_.get(), &ours) == 0 &&
      ours.st_dev == there.st_dev && ours.st_ino == there.st_ino) {
    return;
  }
  absl::StatusOr<LogFile> opened = Open(path_);
  if (opened.ok()) fd_ = std::move(opened->fd_);
}

}  // namespace nbdinetd
