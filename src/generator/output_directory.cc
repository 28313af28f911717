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

constexpr int kMaxTemporaryFiles = 1000;

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
      prefix_(absl::StrCat(".nbdinetd-generator.", getpid(), ".")) {}

absl::Status OutputDirectory::FailedToWrite(const std::string& name) const {
  return ErrnoStatus(
      errno,
      absl::StrCat("failed to write ", Quoted(absl::StrCat(path_, "/", name))));
}

std::string OutputDirectory::MakeTemporary(
    absl::FunctionRef<bool(const char* name)> make) const {
  for (int i = 0; i < kMaxTemporaryFiles; ++i) {
    std::string name = absl::StrCat(prefix_, i);
    if (make(name.c_str())) return name;
    if (errno != EEXIST) break;
  }
  return "";
}

absl::Status OutputDirectory::Rename(const std::string& temporary,
                                     const std::string& name) const {
  if (renameat(fd_.get(), temporary.c_str(), fd_.get(), name.c_str()) == 0) {
    return absl::OkStatus();
  }
  absl::Status status = FailedToWrite(name);
  unlinkat(fd_.get(), temporary.c_str(), 0);
  return status;
}

absl::Status OutputDirectory::Write(const UnitFile& file) const {
  UniqueFd fd;
  const std::string temporary = MakeTemporary([&](const char* name) {
    fd = UniqueFd(
        openat(fd_.get(), name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    return fd.valid();
  });
  if (temporary.empty()) return FailedToWrite(file.name);
  const int error = WriteAll(fd.get(), file.text);
  if (error != 0) {
    unlinkat(fd_.get(), temporary.c_str(), 0);
    errno = error;
    return FailedToWrite(file.name);
  }
  return Rename(temporary, file.name);
}

absl::Status OutputDirectory::Write(const UnitLink& link) const {
  const auto make = [&](const char* name) {
    return symlinkat(link.target.c_str(), fd_.get(), name) == 0;
  };
  if (make(link.name.c_str())) return absl::OkStatus();  // it is whole at once
  const size_t slash = link.name.find('/');
  if (errno == ENOENT && slash != std::string::npos) {
    const std::string directory = link.name.substr(0, slash);
    if (mkdirat(fd_.get(), directory.c_str(), 0755) != 0 && errno != EEXIST) {
      return FailedToWrite(link.name);
    }
    if (make(link.name.c_str())) return absl::OkStatus();
  }
  if (errno != EEXIST) return FailedToWrite(link.name);
  const std::string temporary = MakeTemporary(make);
  if (temporary.empty()) return FailedToWrite(link.name);
  return Rename(temporary, link.name);
}

}  // namespace nbdinetd
