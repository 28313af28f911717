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

// 0 or an errno value; EAGAIN: another one excludes it.
int LockBase(const Export& base, short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = kBase;
  lock.l_len = 1;
  if (fcntl(base.lock_fd(), F_OFD_SETLK, &lock) == 0) return 0;
  // POSIX allows both.
  return errno == EACCES ? EAGAIN : errno;
}

}  // namespace

absl::Status LockBaseOfCopy(const Export& base) {
  if (base.shares_description() || LockBase(base, F_RDLCK) != EAGAIN) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("'nbdinetctl copies merge' writes to ", Quoted(base.path()),
                   ": try again when it has ended"));
}

int LockBaseForMerge(const Export& base) { return LockBase(base, F_WRLCK); }

}  // namespace nbdinetd
