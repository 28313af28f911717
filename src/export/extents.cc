#include "export/extents.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace nbdinetd {
namespace {

// Of linux/magic.h, but not in every version of it.
constexpr uint64_t kXfsMagic = 0x58465342;

// Extents that one system call brings: 14 KiB on a worker's stack.
constexpr uint32_t kMapExtents = 256;

class Finder {
 public:
  Finder(int fd, uint64_t offset, uint64_t size, size_t limit,
         bool trusts_holes, std::vector<Extent>* out)
      : fd_(fd),
        offset_(offset),
        size_(size),
        limit_(limit),
        trusts_holes_(trusts_holes),
        out_(out) {}

  // Both go on from where the last extent ended until they reach `end`, or have
  // enough; 0 or an errno.
  int Seek(uint64_t end);
  // EOPNOTSUPP when there is no such map; nothing is appended then.
  int Map(uint64_t end);

 private:
  bool enough() const { return out_->size() > limit_; }
  // All up to `end`, joined with the last extent if that is alike. An extent too
  // many tells that the one before it is complete; it is dropped.
  void Append(uint64_t end, bool hole);
  // What lies between extents or behind them, up to `hole_end`, as far as the
  // range that goes to `end` has to be told of it.
  int AppendHole(uint64_t hole_end, uint64_t end);
  int AppendMapped(const fiemap_extent& extent, uint64_t end);

  const int fd_;
  uint64_t offset_;
  const uint64_t size_;
  const size_t limit_;
  const bool trusts_holes_;
  std::vector<Extent>* out_;
};

void Finder::Append(uint64_t end, bool hole) {
  end = std::min(end, size_);
  if (end <= offset_) return;
  if (!out_->empty() && out_->back().hole == hole) {
    out_->back().length_bytes += end - offset_;
  } else {
    out_->push_back({end - offset_, hole});
  }
  offset_ = end;
}

int Finder::AppendHole(uint64_t hole_end, uint64_t end) {
  struct stat st;
  if (fstat(fd_, &st) != 0) return errno;
  // Where the file has been truncated, what the export still promises beyond its
  // end is no hole but lost, and reading it must fail.
  Append(std::min(hole_end, static_cast<uint64_t>(st.st_size)), true);
  // "the sum of the length fields of the first N-1 extents (if any) MUST be less
  // than the requested length" (NBD_REPLY_TYPE_BLOCK_STATUS).
  if (offset_ < end) Append(hole_end, false);
  return 0;
}

int Finder::Seek(uint64_t end) {
  while (offset_ < end && !enough()) {
    const off_t data = lseek(fd_, static_cast<off_t>(offset_), SEEK_DATA);
    if (data < 0) {
      if (errno == ENXIO) return AppendHole(size_, end);
      // The file system or device doesn't know: all of it may be data. An
      // error of the storage is one.
      if (errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS) {
        return errno;
      }
      Append(size_, false);
      return 0;
    }
    Append(static_cast<uint64_t>(data), true);
    if (offset_ >= end || enough()) return 0;
    const off_t hole = lseek(fd_, static_cast<off_t>(offset_), SEEK_HOLE);
    // The file was truncated between the two calls: what was data is none now.
    if (hole < 0 && errno != ENXIO) return errno;
    Append(hole < 0 ? size_
                    : std::max(static_cast<uint64_t>(hole), offset_ + 1),
           false);
  }
  return 0;
}

int Finder::AppendMapped(const fiemap_extent& extent, uint64_t end) {
  const uint64_t extent_end = extent.fe_logical + extent.fe_length;
  if (extent.fe_logical > offset_) {
    const uint64_t hole_end = extent.fe_logical;
    const int error = trusts_holes_ ? AppendHole(hole_end, end)
                                    : Seek(std::min(hole_end, end));
    if (error != 0 || offset_ >= end || enough()) return error;
  }
  if ((extent.fe_flags & FIEMAP_EXTENT_UNWRITTEN) == 0 ||
      (extent.fe_flags & FIEMAP_EXTENT_DELALLOC) != 0) {
    Append(extent_end, false);
    return 0;
  }
  return Seek(std::min(extent_end, end));
}

int Finder::Map(uint64_t end) {
  alignas(fiemap) char buffer[sizeof(fiemap) +
                              kMapExtents * sizeof(fiemap_extent)];
  auto* map = reinterpret_cast<fiemap*>(buffer);
  while (offset_ < end && !enough()) {
    std::memset(map, 0, sizeof(*map));
    map->fm_start = offset_;
    map->fm_length = end - offset_;
    map->fm_extent_count = kMapExtents;
    while (ioctl(fd_, FS_IOC_FIEMAP, map) != 0) {
      if (errno != EINTR) return errno == ENOTTY ? EOPNOTSUPP : errno;
    }
    const size_t count = map->fm_mapped_extents;
    for (size_t i = 0; i < count && offset_ < end && !enough(); ++i) {
      if (const int error = AppendMapped(map->fm_extents[i], end)) return error;
    }
    // Nothing but hole is left in the range; it may reach further.
    if (count < kMapExtents && offset_ < end && !enough()) return Seek(end);
  }
  return 0;
}

}  // namespace

ExtentMap ExtentMapOf(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st) != 0) return ExtentMap::kNone;
  switch (static_cast<uint64_t>(st.f_type)) {
    case EXT4_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
      return ExtentMap::kAll;
    case kXfsMagic:
      return ExtentMap::kNoHoles;
    default:
      return ExtentMap::kNone;
  }
}

int FindExtents(int fd, uint64_t offset, uint64_t end, uint64_t size,
                size_t limit, ExtentMap map, std::vector<Extent>* out) {
  Finder finder(fd, offset, size, limit,
                /*trusts_holes=*/map == ExtentMap::kAll, out);
  int error = map != ExtentMap::kNone ? finder.Map(end) : EOPNOTSUPP;
  if (error == EOPNOTSUPP) error = finder.Seek(end);
  if (out->size() > limit) out->resize(limit);
  return error;
}

}  // namespace nbdinetd
