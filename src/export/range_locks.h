// Locks of ranges of a block device, for changes that must not meet: a process
// that changes a part of a block reads the block, and writes all of it.
//
// Each connection has a process of its own, so that a mutex isn't enough: the
// ranges are locked by fcntl(2), for the open file description. The bytes of
// these locks lie behind all others, one for each 512 bytes of the device,
// since other programs lock bytes at the beginning (qemu: 100 to 203).
//
// Invariant: the ranges that one process has locked don't overlap. The kernel
// joins the locks of a description, and would release the part that two share
// with the first of them. Threads: any. Nothing here allocates memory.
#ifndef NBDINETD_EXPORT_RANGE_LOCKS_H_
#define NBDINETD_EXPORT_RANGE_LOCKS_H_

#include <condition_variable>
#include <mutex>

#include "export/blocks.h"

namespace nbdinetd {

class RangeLocks {
 public:
  // `fd` is borrowed, and open for reading and writing. No other process shares
  // its description.
  explicit RangeLocks(int fd) : fd_(fd) {}
  RangeLocks(const RangeLocks&) = delete;
  RangeLocks& operator=(const RangeLocks&) = delete;

  enum class Kind {
    kShared,     // other processes may have the range shared, too
    kExclusive,  // none may
  };

  // A lock of a range, during its lifetime. It waits for the changes that it
  // would meet.
  class Lock {
   public:
    // The range begins and ends at multiples of 512.
    Lock(RangeLocks& locks, Range range, Kind kind);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

    // Not 0: the range isn't locked, and this is why, as an errno value.
    int error() const { return error_; }

   private:
    friend class RangeLocks;

    RangeLocks& locks_;
    const Range range_;
    int error_ = 0;
    Lock* next_ = nullptr;  // of locks_.first_
  };

 private:
  bool Overlaps(Range range) const;  // the caller holds mutex_
  // Sets a lock of this type, or F_UNLCK. An errno value or 0.
  int Set(short type, Range range) const;

  const int fd_;
  std::mutex mutex_;
  std::condition_variable released_;
  Lock* first_ = nullptr;  // of a list, guarded by mutex_
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_RANGE_LOCKS_H_
