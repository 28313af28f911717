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

#include "base/file_status.h"

namespace nbdinetd {
namespace {

// Of linux/magic.h, but not in every version of it.
constexpr uint64_t kXfsMagic = 0x58465342;
constexpr uint64_t kF2fsMagic = 0xf2f52010;
constexpr uint64_t kExfatMagic = 0x2011bab0;
constexpr uint64_t kNtfs3Magic = 0x7366746e;

// Extents that one system call brings: 14 KiB on a worker's stack.
constexpr uint32_t kMapExtents = 256;

// A hole is told in pieces while there are dirty pages in it; one that is no
// longer than this is data as a whole.
constexpr uint64_t kMinCleanBytes = 1 << 20;

// The file system or device doesn't tell where holes are: all of it may be
// data. (ENOENT: ext4, of a file whose data is in its inode.)
bool KnowsNoHoles(int error_number) {
  return error_number == EINVAL || error_number == EOPNOTSUPP ||
         error_number == ENOSYS || error_number == ENOENT;
}

class Finder {
 public:
  Finder(int fd, const ExtentQuery& query, ExtentSource source,
         IsClean is_clean, Extents* out)
      : fd_(fd),
        offset_(query.offset),
        size_(query.size),
        limit_(query.limit),
        source_(source),
        is_clean_(is_clean),
        out_(out) {}

  // Both go on from where the last extent ended until they reach `end`, or have
  // enough; 0 or an errno.
  int Seek(uint64_t end);
  // EOPNOTSUPP when there is no such map; nothing is appended then.
  int Map(uint64_t end);

 private:
  bool enough() const { return out_->size() > limit_; }
  // All up to `end`, joined with the last extent if that is alike. An extent
  // too many tells that the one before it is complete; it is dropped.
  void Append(uint64_t end, bool hole);
  // What lies between extents or behind them, up to `hole_end`, as far as the
  // range that goes to `end` has to be told of it.
  int AppendHole(uint64_t hole_end, uint64_t end);
  int AppendMapped(const fiemap_extent& extent, uint64_t end);
  // Where the next data begins, from where the last extent ended; size_ when
  // there is none, and the errno of a failure in `*error`.
  uint64_t SeekData(int* error);
  // A hole up to `hole_end`, in which dirty pages may hide; as far as `end`.
  int AppendDoubtfulHole(uint64_t hole_end, uint64_t end);

  const int fd_;
  uint64_t offset_;
  const uint64_t size_;
  const size_t limit_;
  const ExtentSource source_;
  const IsClean is_clean_;
  Extents* out_;
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
  if (FileStatus(fd_, &st) != 0) return errno;
  // Where the file has been truncated, what the export still promises beyond
  // its end is no hole but lost, and reading it must fail.
  Append(std::min(hole_end, static_cast<uint64_t>(st.st_size)), true);
  // "the sum of the length fields of the first N-1 extents (if any) MUST be
  // less than the requested length" (NBD_REPLY_TYPE_BLOCK_STATUS).
  if (offset_ < end) Append(hole_end, false);
  return 0;
}

uint64_t Finder::SeekData(int* error) {
  *error = 0;
  const off_t data = lseek(fd_, static_cast<off_t>(offset_), SEEK_DATA);
  if (data >= 0) return static_cast<uint64_t>(data);
  if (errno == ENXIO) return size_;
  if (KnowsNoHoles(errno)) return offset_;
  *error = errno;
  return size_;
}

int Finder::AppendDoubtfulHole(uint64_t hole_end, uint64_t end) {
  hole_end = std::min(hole_end, end);
  uint64_t step = hole_end - offset_;
  while (offset_ < hole_end && !enough()) {
    const uint64_t length = std::min(step, hole_end - offset_);
    if (!is_clean_(offset_, length)) {
      if (length <= kMinCleanBytes) {
        Append(offset_ + length, false);
      } else {
        step = std::max(length / 2, kMinCleanBytes);
      }
      continue;
    }
    // Asked again: what was dirty before has its blocks by now, and what gets
    // dirty from here on is written while this request is under way.
    const uint64_t piece_end = offset_ + length;
    int error;
    const uint64_t data = SeekData(&error);
    if (error == 0 && data >= piece_end) error = AppendHole(piece_end, end);
    if (error != 0 || data < piece_end) return error;
    step *= 2;
  }
  return 0;
}

int Finder::Seek(uint64_t end) {
  while (offset_ < end && !enough()) {
    int error;
    const uint64_t data = SeekData(&error);
    if (error != 0) return error;
    if (data > offset_) {
      if (source_ == ExtentSource::kSeekWhereClean) {
        error = AppendDoubtfulHole(data, end);
      } else if (data < size_) {
        Append(data, true);
      } else {
        error = AppendHole(data, end);
      }
      if (error != 0) return error;
      continue;
    }
    const off_t hole = lseek(fd_, static_cast<off_t>(offset_), SEEK_HOLE);
    // Truncated between the two calls, what was data is none now.
    if (hole < 0 && errno != ENXIO && !KnowsNoHoles(errno)) return errno;
    Append(
        hole < 0 ? size_ : std::max(static_cast<uint64_t>(hole), offset_ + 1),
        false);
  }
  return 0;
}

int Finder::AppendMapped(const fiemap_extent& extent, uint64_t end) {
  const uint64_t extent_end = extent.fe_logical + extent.fe_length;
  if (extent.fe_logical > offset_) {
    const uint64_t hole_end = extent.fe_logical;
    const int error = source_ == ExtentSource::kMap
                          ? AppendHole(hole_end, end)
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
  alignas(
      fiemap) char buffer[sizeof(fiemap) + kMapExtents * sizeof(fiemap_extent)];
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

// Whether the file's blocks are in a tree of extents, which ext4 looks up
// together with what waits to be allocated; of a file of the older kind it
// forgets that, and inline data it moves out at some time.
bool IsPlainExt4File(int fd) {
  int flags = 0;
  return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 &&
         (flags & FS_EXTENT_FL) != 0 && (flags & FS_INLINE_DATA_FL) == 0;
}

}  // namespace

ExtentSource ExtentSourceOf(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st) != 0) return ExtentSource::kSeekAfterSync;
  switch (static_cast<uint64_t>(st.f_type)) {
    case EXT4_SUPER_MAGIC:  // ext2 and ext3, too
      return IsPlainExt4File(fd) ? ExtentSource::kMap
                                 : ExtentSource::kSeekWhereClean;
    case kXfsMagic:
      return ExtentSource::kMapWithoutHoles;
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
      return ExtentSource::kSeek;
    case kF2fsMagic:
    case kExfatMagic:
    case kNtfs3Magic:
    case MSDOS_SUPER_MAGIC:
      return ExtentSource::kSeekWhereClean;
    default:
      return ExtentSource::kSeekAfterSync;
  }
}

int FindExtents(int fd, const ExtentQuery& query, ExtentSource source,
                IsClean is_clean, Extents* out) {
  Finder finder(fd, query, source, is_clean, out);
  const bool has_map =
      source == ExtentSource::kMap || source == ExtentSource::kMapWithoutHoles;
  int error = has_map ? finder.Map(query.end) : EOPNOTSUPP;
  if (error == EOPNOTSUPP) error = finder.Seek(query.end);
  if (out->size() > query.limit) out->resize(query.limit);
  return error;
}

}  // namespace nbdinetd
