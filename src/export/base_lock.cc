#include "export/base_lock.h"

#include <fcntl.h>
#include <sys/types.h>

#include <cerrno>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

constexpr off_t kBase = std::numeric_limits<off_t>::max() - 0xfe00;

struct flock LockOf(short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = kBase;
  lock.l_len = 1;
  return lock;
}

// 0 or an errno value; EAGAIN: another one excludes it.
int LockBase(const Export& base, short type) {
  struct flock lock = LockOf(type);
  if (fcntl(base.lock_fd(), F_OFD_SETLK, &lock) == 0) return 0;
  // POSIX allows both.
  return errno == EACCES ? EAGAIN : errno;
}

absl::Status UnderWay(const Export& base) {
  return absl::FailedPreconditionError(
      absl::StrCat("'nbdinetctl copies merge' writes to ", Quoted(base.path()),
                   ": try again when it has ended"));
}

}  // namespace

absl::Status CheckNoMerge(const Export& base) {
  // Only a write lock conflicts with that. One of the whole file is another
  // program's.
  struct flock lock = LockOf(F_RDLCK);
  const bool is_merged = fcntl(base.lock_fd(), F_OFD_GETLK, &lock) == 0 &&
                         lock.l_type == F_WRLCK && lock.l_start == kBase &&
                         lock.l_len == 1;
  return is_merged ? UnderWay(base) : absl::OkStatus();
}

absl::Status LockBaseOfCopy(const Export& base) {
  if (base.shares_locks()) return CheckNoMerge(base);
  return LockBase(base, F_RDLCK) == EAGAIN ? UnderWay(base) : absl::OkStatus();
}

int LockBaseForMerge(const Export& base) { return LockBase(base, F_WRLCK); }

}  // namespace nbdinetd
