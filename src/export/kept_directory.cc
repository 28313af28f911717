#include "export/kept_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "export/exclusive.h"
#include "export/kept_name.h"

namespace nbdinetd {
namespace {

// How often the file for a new copy may be taken away.
constexpr int kMaxAttempts = 20;
// How old a leftover is at least. The locks of a directory that machines share
// may be of one machine only; a copy gets its name within the handshake.
constexpr time_t kLeftoverSeconds = 60 * 60;

int OpenCopy(int directory, const char* name) {
  open_how how = {};
  // O_NONBLOCK: a FIFO must not delay us, and is refused afterwards.
  how.flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_LARGEFILE;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  while (true) {
    const long fd = syscall(SYS_openat2, directory, name, &how, sizeof(how));
    if (fd >= 0 || errno != EINTR) return static_cast<int>(fd);
  }
}

std::string OwnLink(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

bool IsNotSupported(int error) {
  return error == EOPNOTSUPP || error == EPERM || error == ENOSYS ||
         error == EINVAL || error == EMLINK;
}

}  // namespace

absl::StatusOr<KeptDirectory> KeptDirectory::Open(const std::string& path) {
  const auto fail = [&path](int error) {
    const bool is_ours = error == EMFILE || error == ENFILE || error == ENOMEM;
    return ErrnoStatus(
        error,
        absl::StrCat("failed to use ", Quoted(path), " for kept copies",
                     error == ENOSYS ? ", which needs openat2(2)" : ""),
        is_ours ? absl::StatusCode::kInternal
                : absl::StatusCode::kAlreadyExists);
  };
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return fail(errno);
  KeptDirectory directory(path, std::move(fd));
  if (absl::Status status = directory.MakeNew(); !status.ok()) return status;
  // Tests openat2(2), once for all clients.
  const UniqueFd none(OpenCopy(directory.fd(), ".nbdinetd-none"));
  if (!none.valid() && errno != ENOENT) return fail(errno);
  // A number of its own; what is there doesn't matter yet.
  directory.copy_ = UniqueFd(
      fcntl(directory.new_.valid() ? directory.new_.get() : directory.fd_.get(),
            F_DUPFD_CLOEXEC, 0));
  if (!directory.copy_.valid()) return fail(errno);
  return directory;
}

int KeptDirectory::MakeNamed() {
  // Another process may take it for a leftover before it is locked.
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    std::string name = absl::StrCat(path_, "/", kUnnamedBegin, "XXXXXX");
    UniqueFd fd(mkostemp(name.data(), O_CLOEXEC));
    if (!fd.valid()) return errno;
    struct stat st;
    const absl::StatusOr<bool> locked = ExclusiveLock(fd.get()).Try();
    // Where there are no locks, nobody can have it, and nothing is deleted.
    if (locked.ok() &&
        (!*locked || FileStatus(fd.get(), &st) != 0 || st.st_nlink == 0)) {
      continue;
    }
    new_ = std::move(fd);
    new_name_ = name.substr(name.rfind('/') + 1);
    return 0;
  }
  return EAGAIN;
}

void KeptDirectory::RemoveLeftovers() {
  DIR* const stream = opendir(path_.c_str());
  if (stream == nullptr) return;
  const time_t long_ago = time(nullptr) - kLeftoverSeconds;
  while (const dirent* entry = readdir(stream)) {
    if (!absl::StartsWith(entry->d_name, kUnnamedBegin)) continue;
    const UniqueFd fd(OpenCopy(fd_.get(), entry->d_name));
    if (!fd.valid()) continue;
    struct stat st;
    if (FileStatus(fd.get(), &st) == 0 && st.st_mtime < long_ago &&
        ExclusiveLock(fd.get()).Try().value_or(false)) {
      unlinkat(fd_.get(), entry->d_name, 0);
    }
  }
  closedir(stream);
}

absl::Status KeptDirectory::MakeNew() {
  int fd = open(path_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  // Without /proc, it could get no name later.
  if (fd >= 0 && access(OwnLink(fd).c_str(), F_OK) != 0) {
    close(fd);
    fd = -1;
    errno = EOPNOTSUPP;
  }
  // EISDIR: the kernel doesn't know O_TMPFILE.
  if (fd >= 0) {
    new_ = UniqueFd(fd);
    return absl::OkStatus();
  }
  int error = errno;
  if (error == EOPNOTSUPP || error == EISDIR) {
    RemoveLeftovers();
    error = MakeNamed();
    if (error == 0) return absl::OkStatus();
  }
  new_error_ = error;
  if (error == ENOSPC || error == EDQUOT) return absl::OkStatus();
  const bool is_ours = error == EMFILE || error == ENFILE || error == ENOMEM;
  return ErrnoStatus(
      error,
      absl::StrCat("failed to make a file for a kept copy in ", Quoted(path_)),
      is_ours ? absl::StatusCode::kInternal : absl::StatusCode::kAlreadyExists);
}

KeptDirectory::KeptDirectory(KeptDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      new_(std::move(other.new_)),
      new_name_(std::exchange(other.new_name_, "")),
      took_new_(other.took_new_),
      new_error_(other.new_error_),
      copy_(std::move(other.copy_)) {}

void KeptDirectory::RemoveUnnamed() {
  if (!new_name_.empty()) unlinkat(fd_.get(), new_name_.c_str(), 0);
  new_name_.clear();
}

absl::StatusOr<bool> KeptDirectory::Take(const std::string& name) {
  const std::string what = absl::StrCat("failed to open the kept copy ",
                                        Quoted(absl::StrCat(path_, "/", name)));
  const UniqueFd found(OpenCopy(fd_.get(), name.c_str()));
  if (!found.valid() && errno != ENOENT) return ErrnoStatus(errno, what);
  if (!found.valid() && !new_.valid()) {
    return ErrnoStatus(new_error_,
                       absl::StrCat("failed to make a file for a kept copy in ",
                                    Quoted(path_)));
  }
  struct stat st;
  if (found.valid() &&
      (FileStatus(found.get(), &st) != 0 || !S_ISREG(st.st_mode))) {
    return absl::InternalError(absl::StrCat(what, ": it is no regular file"));
  }
  const int from = found.valid() ? found.get() : new_.get();
  while (dup3(from, copy_.get(), O_CLOEXEC) < 0) {
    if (errno != EINTR && errno != EBUSY) return ErrnoStatus(errno, what);
  }
  took_new_ = !found.valid();
  return found.valid();
}

bool KeptDirectory::IsGone() const {
  struct stat st;
  return FileStatus(copy_.get(), &st) != 0 || st.st_nlink == 0;
}

int KeptDirectory::Name(const std::string& name) {
  const char* const to = name.c_str();
  int result;
  if (new_name_.empty()) {
    result = linkat(AT_FDCWD, OwnLink(copy_.get()).c_str(), fd_.get(), to,
                    AT_SYMLINK_FOLLOW);
  } else {
    const char* const from = new_name_.c_str();
    result = linkat(fd_.get(), from, fd_.get(), to, 0);
    if (result == 0) {
      unlinkat(fd_.get(), from, 0);
    } else if (IsNotSupported(errno)) {
      result = renameat2(fd_.get(), from, fd_.get(), to, RENAME_NOREPLACE);
    }
    if (result == 0) new_name_.clear();
  }
  if (result != 0) return errno;
  // A file system without this has nothing to wait for.
  while (fsync(fd_.get()) != 0 && errno != EINVAL) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int KeptDirectory::Remove(const std::string& name) {
  return unlinkat(fd_.get(), name.c_str(), 0) == 0 || errno == ENOENT ? 0
                                                                      : errno;
}

UniqueFd KeptDirectory::Release() {
  RemoveUnnamed();
  if (!took_new_) new_.Reset();
  return std::move(copy_);
}

}  // namespace nbdinetd
