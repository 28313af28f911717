#include "export/block_device.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/page_size.h"

namespace nbdinetd {
namespace {

// Calls an ioctl that takes {offset, length} in bytes. 0 or an errno value.
int RangeIoctl(int fd, unsigned long request, uint64_t offset,
               uint64_t length) {
  uint64_t range[2] = {offset, length};
  while (ioctl(fd, request, range) != 0) {
    if (errno != EINTR) return errno == ENOTTY ? EOPNOTSUPP : errno;
  }
  return 0;
}

}  // namespace

BlockDeviceExport::BlockDeviceExport(std::string path, UniqueFd fd, Facts facts,
                                     uint64_t command_block_bytes)
    : StoredExport(std::move(path), std::move(fd), facts),
      command_block_bytes_(command_block_bytes) {}

bool BlockDeviceExport::IsReadOnly(int fd) {
  int read_only = 0;
  return ioctl(fd, BLKROGET, &read_only) == 0 && read_only != 0;
}

absl::StatusOr<std::unique_ptr<StoredExport>> BlockDeviceExport::Create(
    const std::string& path, UniqueFd fd, const Opening& opening) {
  Facts facts;
  facts.block_device = true;
  facts.sharing = opening.sharing;
  facts.read_only = opening.read_only;
  facts.storage = opening.storage;
  if (ioctl(fd.get(), BLKGETSIZE64, &facts.size_bytes) != 0) {
    return ErrnoStatus(errno, absl::StrCat("failed to get the size of block "
                                           "device ",
                                           Quoted(path)));
  }
  int logical = 0;
  unsigned physical = 0;
  unsigned short rotational = 0;
  // The defaults are for devices without these ioctls.
  if (ioctl(fd.get(), BLKSSZGET, &logical) != 0 || logical < 512) logical = 512;
  if (ioctl(fd.get(), BLKPBSZGET, &physical) != 0) physical = 4096;
  if (ioctl(fd.get(), BLKROTATIONAL, &rotational) != 0) rotational = 0;
  facts.rotational = rotational != 0;
  // A write of less than a page first reads the page into the page cache.
  const unsigned preferred =
      std::max(physical, static_cast<unsigned>(PageBytes()));
  facts.block_sizes.preferred =
      std::has_single_bit(preferred) && preferred <= (1 << 20) ? preferred
                                                               : 4096;
  return std::unique_ptr<StoredExport>(new BlockDeviceExport(
      path, std::move(fd), facts,
      std::max(static_cast<uint64_t>(logical), PageBytes())));
}

int BlockDeviceExport::Trim(uint64_t offset, uint64_t length) {
  const Range whole = WholeBlocks(offset, length, command_block_bytes_);
  if (whole.length == 0) return 0;
  const Busy busy(*this, Busy::kReadsAndWrites);
  const int error = RangeIoctl(fd(), BLKDISCARD, whole.offset, whole.length);
  return error == EOPNOTSUPP ? 0 : error;
}

// The kernel drops the range from the page cache, with the data written there,
// before it finds out that the device has no such command. The dirty pages are
// therefore written back first, and a device that has returned EOPNOTSUPP isn't
// tried again.
bool BlockDeviceExport::MayZeroFast(uint64_t offset, uint64_t length) {
  if (refuses_unmap_.load(std::memory_order_relaxed)) return false;
  return WriteBack(offset, length) == 0;
}

int BlockDeviceExport::Unmap(Range whole) {
  while (fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   static_cast<off_t>(whole.offset),
                   static_cast<off_t>(whole.length)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS) return errno;
    refuses_unmap_.store(true, std::memory_order_relaxed);
    return EOPNOTSUPP;
  }
  return 0;
}

int BlockDeviceExport::Zero(uint64_t offset, uint64_t length, Hole hole,
                            Speed speed, const std::atomic<bool>* cut_short) {
  if (length == 0) return 0;
  if (speed == Speed::kFastOnly && !MayZeroFast(offset, length)) {
    return EOPNOTSUPP;
  }
  const Busy busy(*this, Busy::kReadsAndWrites);
  const Range whole = WholeBlocks(offset, length, command_block_bytes_);
  int error = EOPNOTSUPP;
  if (whole.length != 0) {
    // PUNCH_HOLE succeeds only where the device has a command that zeroes. It
    // may unmap, so that it can't serve kForbidden, for which no command is
    // known to be fast.
    if (hole == Hole::kAllowed && !refuses_unmap_) error = Unmap(whole);
    if (error == EOPNOTSUPP && speed == Speed::kAny) {
      error = RangeIoctl(fd(), BLKZEROOUT, whole.offset, whole.length);
    }
  }
  if (error == EOPNOTSUPP) {
    return speed == Speed::kFastOnly ? EOPNOTSUPP
                                     : WriteZeroes(offset, length, cut_short);
  }
  if (error != 0) return error;
  return WriteZeroesAround(whole, offset, length);
}

}  // namespace nbdinetd
