#include "export/range_locks.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdint>

namespace nbdinetd {
namespace {

constexpr off_t kFirstByte = off_t{1} << 62;
constexpr uint64_t kBytesOfALock = 512;

}  // namespace

bool RangeLocks::Overlaps(Range range) const {
  for (const Lock* lock = first_; lock != nullptr; lock = lock->next_) {
    if (range.offset < lock->range_.end() && lock->range_.offset < range.end())
      return true;
  }
  return false;
}

int RangeLocks::Set(short type, Range range) const {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = kFirstByte + static_cast<off_t>(range.offset / kBytesOfALock);
  lock.l_len = static_cast<off_t>(range.length / kBytesOfALock);
  while (fcntl(fd_, F_OFD_SETLKW, &lock) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

RangeLocks::Lock::Lock(RangeLocks& locks, Range range, Kind kind)
    : locks_(locks), range_(range) {
  // The length 0 would mean "to the end".
  if (range.length == 0) return;
  {
    std::unique_lock lock(locks.mutex_);
    locks.released_.wait(lock, [&] { return !locks.Overlaps(range); });
    next_ = locks.first_;
    locks.first_ = this;
  }
  error_ = locks.Set(kind == Kind::kShared ? F_RDLCK : F_WRLCK, range);
}

RangeLocks::Lock::~Lock() {
  if (range_.length == 0) return;
  locks_.Set(F_UNLCK, range_);
  {
    const std::lock_guard lock(locks_.mutex_);
    Lock** link = &locks_.first_;
    while (*link != this) link = &(*link)->next_;
    *link = next_;
  }
  locks_.released_.notify_all();
}

}  // namespace nbdinetd
