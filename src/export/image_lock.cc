#include "export/image_lock.h"

#include <fcntl.h>
#include <sys/types.h>

#include <limits>

namespace nbdinetd {
namespace {

constexpr off_t kFirstPermission = 100;
constexpr off_t kFirstExclusion = 200;
constexpr off_t kPermissions = 4;
constexpr off_t kWriting = 1;
// The two permissions that nbdinetd uses, which are neighbours.
constexpr off_t kReadingAndWriting = 2;
// Which only nbdinetd locks, beside those two.
constexpr off_t kOurs = std::numeric_limits<off_t>::max() - 0xff00;
// QEMU never locks this byte; a lock of the whole file includes it.
constexpr off_t kUnusedByQemu = 150;

// Whether another open file description has an open file description lock on
// this byte.
bool IsLocked(int fd, off_t byte) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK &&
         lock.l_pid == -1;
}

// Whether others have locked a byte as QEMU does.
bool IsLockedByQemu(int fd, off_t byte) {
  return IsLocked(fd, byte) && !IsLocked(fd, kUnusedByQemu);
}

// Locks or unlocks bytes. An image that can't be locked is used all the same,
// as QEMU does.
void SetLock(int fd, off_t start, off_t length, short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  fcntl(fd, F_OFD_SETLK, &lock);
}

// Locks or unlocks what says that the image is written to. Without kOurs, the
// permissions would look like QEMU's.
void SetLocks(int fd, short type) {
  if (type != F_UNLCK) SetLock(fd, kOurs, 1, type);
  SetLock(fd, kFirstPermission, kReadingAndWriting, type);
  if (type == F_UNLCK) SetLock(fd, kOurs, 1, type);
}

// `is_ours`: two of the permissions are those of a connection of nbdinetd.
ImageUse UseByOthers(int fd, bool is_ours) {
  ImageUse use;
  use.is_written_to = !is_ours && IsLocked(fd, kFirstPermission + kWriting);
  use.forbids_writing = IsLocked(fd, kFirstExclusion + kWriting);
  for (off_t i = is_ours ? kReadingAndWriting : 0; i < kPermissions; ++i) {
    use.is_used |= IsLocked(fd, kFirstPermission + i);
  }
  for (off_t i = 0; i < kPermissions; ++i) {
    use.is_used |= IsLocked(fd, kFirstExclusion + i);
  }
  return use;
}

}  // namespace

bool IsServedForWriting(int fd) { return IsLocked(fd, kOurs); }

ImageUse ImageUseOf(int fd) {
  if (IsLocked(fd, kUnusedByQemu)) return {};
  for (bool is_ours = IsLocked(fd, kOurs);;) {
    const ImageUse use = UseByOthers(fd, is_ours);
    const bool is_still_ours = IsLocked(fd, kOurs);
    // A connection that comes or goes meanwhile would look like QEMU.
    if (is_still_ours == is_ours) return use;
    is_ours = is_still_ours;
  }
}

bool LockImageAlone(int fd) {
  const auto set = [fd](short type) {
    SetLock(fd, kFirstPermission, kReadingAndWriting, type);
    SetLock(fd, kFirstExclusion, kReadingAndWriting, type);
  };
  set(F_RDLCK);
  if (!ImageUseOf(fd).is_used && !IsServedForWriting(fd)) return true;
  set(F_UNLCK);
  return false;
}

bool LockImage(const Export& target) {
  const int fd = target.lock_fd();
  const bool is_shared = target.shares_description();
  if (!is_shared) SetLocks(fd, F_RDLCK);
  if (!IsLockedByQemu(fd, kFirstExclusion + kWriting)) return true;
  if (!is_shared) SetLocks(fd, F_UNLCK);
  return false;
}

}  // namespace nbdinetd
