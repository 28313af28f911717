#include "export/extents.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file_status.h"
#include "base/limits.h"
#include "export/storage_promises.h"

namespace nbdinetd {
namespace {

// The most extents per system call: 14 KiB on a worker's stack.
constexpr uint32_t kMapExtents = 256;

// A hole with dirty pages is divided into pieces; a piece of this size or less
// is reported as data.
constexpr uint64_t kMinCleanBytes = 1 << 20;

// The file system or device can't report holes; the whole range may be data.
// (ENOENT: ext4, for inline data.)
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
        cut_short_(query.cut_short),
        source_(source),
        is_clean_(is_clean),
        out_(out) {}

  // Seek() and Map() continue at the end of the last extent, up to `end` or
  // until there are enough extents. 0 or an errno value.
  int Seek(uint64_t end);
  // EOPNOTSUPP: the file system has no FIEMAP; nothing was appended.
  int Map(uint64_t end);

 private:
  bool enough() const {
    return out_->size() > limit_ || (!out_->empty() && should_end());
  }
  // "the server MAY return fewer descriptors ... if it would be too
  // resource-intensive" (NBD_REPLY_TYPE_BLOCK_STATUS): extents of one kind are
  // merged, so that any number of them may be one.
  bool should_end() const {
    return looks_ >= kMaxExtentLooks ||
           (cut_short_ != nullptr &&
            cut_short_->load(std::memory_order_relaxed));
  }
  // Appends the bytes up to `end`, merged with a last extent of the same kind.
  // One extent more than the limit shows that the one before is complete; it is
  // dropped at the end.
  void Append(uint64_t end, bool hole);
  // Appends the gap up to `hole_end` between or behind extents. It is a hole up
  // to the end of the file; behind that, in a truncated file, it is data, which
  // is appended only if `end` isn't reached yet.
  int AppendHole(uint64_t hole_end, uint64_t end);
  int AppendMapped(const fiemap_extent& extent, uint64_t end);
  // The offset of the next data at or behind the end of the last extent; size_
  // when there is none. `*error` is 0 or an errno value.
  uint64_t SeekData(int* error);
  // Appends a hole up to `hole_end` that may contain dirty pages; stops at
  // `end`.
  int AppendDoubtfulHole(uint64_t hole_end, uint64_t end);

  const int fd_;
  uint64_t offset_;
  const uint64_t size_;
  const size_t limit_;
  const std::atomic<bool>* const cut_short_;
  const ExtentSource source_;
  const IsClean is_clean_;
  Extents* out_;
  size_t looks_ = 0;  // turns of the loops, each of a few system calls
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
  // After a truncation, the bytes beyond the end of the file are lost, and no
  // hole: reading them fails.
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
  for (; offset_ < hole_end && !enough(); ++looks_) {
    const uint64_t length = std::min(step, hole_end - offset_);
    if (!is_clean_(offset_, length)) {
      if (length <= kMinCleanBytes) {
        Append(offset_ + length, false);
      } else {
        step = std::max(length / 2, kMinCleanBytes);
      }
      continue;
    }
    // SEEK_DATA is repeated: pages that were dirty before have blocks now, and
    // pages that become dirty later are written during this request.
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
  for (; offset_ < end && !enough(); ++looks_) {
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
    // ENXIO: the file was truncated between the two calls.
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
  for (; offset_ < end && !enough(); ++looks_) {
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
    // The rest of the range is a hole, which may extend beyond it.
    if (count < kMapExtents && offset_ < end && !enough()) return Seek(end);
  }
  return 0;
}

// Whether the blocks are in an extent tree. For such files, ext4 looks up
// delayed allocations, too; for block-mapped files it doesn't, and it may move
// inline data to blocks at any time.
bool IsPlainExt4File(int fd) {
  int flags = 0;
  return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 &&
         (flags & FS_EXTENT_FL) != 0 && (flags & FS_INLINE_DATA_FL) == 0;
}

}  // namespace

void AlignExtents(uint64_t minimum, uint64_t length, Extents* extents) {
  const uint64_t mask = minimum - 1;
  uint64_t end = 0, aligned_end = 0;  // from the first extent's begin
  size_t kept = 0;
  for (size_t i = 0; i < extents->size() && aligned_end < length; ++i) {
    const Extent extent = (*extents)[i];
    end += extent.length_bytes;
    const uint64_t next = extent.hole ? end & ~mask : (end + mask) & ~mask;
    if (next <= aligned_end) continue;
    if (kept > 0 && (*extents)[kept - 1].hole == extent.hole) {
      (*extents)[kept - 1].length_bytes += next - aligned_end;
    } else {
      (*extents)[kept++] = {next - aligned_end, extent.hole};
    }
    aligned_end = next;
  }
  // A hole of less than `minimum` is reported as data, which is always right.
  if (kept == 0) (*extents)[kept++] = {minimum, false};
  extents->resize(kept);
}

ExtentSource ExtentSourceOf(int fd) {
  struct statfs st;
  const uint64_t magic =
      fstatfs(fd, &st) == 0 ? static_cast<uint32_t>(st.f_type) : 0;
  const ExtentSource source = PromisesOfFileSystem(magic, "").holes;
  // ext4, ext3 or ext2: it depends on the file.
  return source != ExtentSource::kMap || IsPlainExt4File(fd)
             ? source
             : ExtentSource::kSeekWhereClean;
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
