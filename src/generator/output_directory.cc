#include "generator/output_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

// Returns 0 or an errno value.
int WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(fd, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    text.remove_prefix(static_cast<size_t>(count));
  }
  return 0;
}

}  // namespace

absl::StatusOr<OutputDirectory> OutputDirectory::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return ErrnoStatus(
        errno, absl::StrCat("failed to open the directory ", Quoted(path)));
  }
  return OutputDirectory(path, std::move(fd));
}

OutputDirectory::OutputDirectory(std::string path, UniqueFd fd)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      temporary_(absl::StrCat(".nbdinetd-generator.", getpid())) {}

absl::Status OutputDirectory::FailedToWrite(const std::string& name) const {
  const int error = errno;
  unlinkat(fd_.get(), temporary_.c_str(), 0);
  return ErrnoStatus(
      error,
      absl::StrCat("failed to write ", Quoted(absl::StrCat(path_, "/", name))));
}

absl::Status OutputDirectory::Rename(const std::string& name) const {
  if (renameat(fd_.get(), temporary_.c_str(), fd_.get(), name.c_str()) == 0) {
    return absl::OkStatus();
  }
  return FailedToWrite(name);
}

absl::Status OutputDirectory::Write(const UnitFile& file) const {
  const UniqueFd fd(openat(fd_.get(), temporary_.c_str(),
                           O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return FailedToWrite(file.name);
  const int error = WriteAll(fd.get(), file.text);
  if (error != 0) {
    errno = error;
    return FailedToWrite(file.name);
  }
  return Rename(file.name);
}

absl::Status OutputDirectory::Write(const UnitLink& link) const {
  const auto make = [&](const std::string& name) {
    return symlinkat(link.target.c_str(), fd_.get(), name.c_str()) == 0;
  };
  if (make(link.name)) return absl::OkStatus();  // it is whole at once
  const size_t slash = link.name.find('/');
  if (errno == ENOENT && slash != std::string::npos) {
    const std::string directory = link.name.substr(0, slash);
    if (mkdirat(fd_.get(), directory.c_str(), 0755) != 0 && errno != EEXIST) {
      return FailedToWrite(link.name);
    }
    if (make(link.name)) return absl::OkStatus();
  }
  if (errno != EEXIST || !make(temporary_)) return FailedToWrite(link.name);
  return Rename(link.name);
}

}  // namespace nbdinetd
