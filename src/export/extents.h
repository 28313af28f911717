// Finds the data and the holes of a file.
//
// Only a range that is known to read as zeroes may be reported as a hole,
// because a client doesn't read it. SEEK_DATA and FS_IOC_FIEMAP report the
// blocks on the storage; whether they count dirty pages as data depends on the
// file system, and some don't. ExtentSource therefore depends on the file
// system; for an unknown one it is kSeekAfterSync.
//
// SEEK_DATA needs two system calls for each extent, FIEMAP one for hundreds.
// FIEMAP alone isn't enough in two cases, where SEEK_DATA decides: in an
// unwritten extent, whose pages may already hold data; and in a hole on XFS,
// which keeps the blocks that replace shared ones (a reflink) in a second map
// that FIEMAP doesn't report. These cover more than the shared blocks, so that
// data next to them may look like a hole.
//
// Rejected: FIEMAP on btrfs, which doesn't lock the range (Linux 6.8) and may
// miss an extent during its writeback; FIEMAP_FLAG_SYNC, which is always
// correct but writes back all dirty pages of the file. Threads: any.
#ifndef NBDINETD_EXPORT_EXTENTS_H_
#define NBDINETD_EXPORT_EXTENTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <vector>

#include "absl/functional/function_ref.h"

namespace nbdinetd {

// A run of bytes that is either a hole (reads as zeroes) or data.
struct Extent {
  uint64_t length_bytes;
  bool hole;
};
using Extents = std::pmr::vector<Extent>;

// The system call that finds the extents of a file, and when its holes are
// certain.
enum class ExtentSource {
  kMap,              // FIEMAP; counts dirty pages as data
  kMapWithoutHoles,  // FIEMAP; its holes may contain data
  kSeek,             // SEEK_DATA, SEEK_HOLE; count dirty pages as data
  // SEEK_DATA and SEEK_HOLE, which may report dirty pages as a hole; used where
  // the page cache of the file is clean.
  kSeekWhereClean,
  // Like kSeekWhereClean, but the pages may belong to another file (overlayfs)
  // or another machine; used after a sync.
  kSeekAfterSync,
  // A reported hole may hold data, also after a sync: all is data.
  kNoHoles,
};

// Moves the ends of the extents to multiples of `minimum`, a power of 2, so
// that a hole covers none of the data: a hole becomes shorter, and may vanish.
// The first extent begins at a multiple, and so does the end of the range,
// which has `length` bytes; extents that would begin behind it are dropped. At
// least one remains.
void AlignExtents(uint64_t minimum, uint64_t length, Extents* extents);

// Depends on the type of the file system (StoragePromises::holes) and the flags
// of the file, which may change while it is open. kSeekAfterSync for an unknown
// file system, or when fstatfs(2) fails.
ExtentSource ExtentSourceOf(int fd);

// The range from `offset` to `end` of a file with `size` bytes in the export.
struct ExtentQuery {
  uint64_t offset;
  uint64_t end;
  uint64_t size;
  size_t limit;  // the most extents
  // Borrowed; nullptr: never. Once it is true, one extent is enough.
  const std::atomic<bool>* cut_short = nullptr;
};

// Whether no page of the range is dirty or under writeback.
using IsClean = absl::FunctionRef<bool(uint64_t offset, uint64_t length)>;

// Appends at most `limit` extents from `offset` on; holes and data alternate,
// and the last extent may end beyond `end`. It looks kMaxExtentLooks times, and
// may then end before `end`. `is_clean` is called only for
// kSeekWhereClean; before a call with kSeekAfterSync the caller syncs the file.
// Returns 0 after at least one extent, or an errno value. If the file system
// can't report holes, or the file has become shorter, the range is data.
int FindExtents(int fd, const ExtentQuery& query, ExtentSource source,
                IsClean is_clean, Extents* out);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXTENTS_H_
