// What of a file is data, and what is hole.
//
// "Hole" may only be said of what is known to read as zeroes: a client that is
// told so doesn't read it. What the kernel says of a file (SEEK_DATA,
// FS_IOC_FIEMAP) tells of the blocks on the storage; whether what has been
// written and is only in the page cache yet counts as data is up to the file
// system, and some get it wrong. So who is asked, and whether the answer can be
// believed, depends on the file system (ExtentSource), and where nothing is
// known it is the careful way.
//
// SEEK_DATA takes two system calls for each extent, FIEMAP one for hundreds.
// But the pages of an unwritten extent may hold data already, so that within
// one SEEK_DATA is asked. And XFS keeps what replaces blocks that a file shares
// with another (a reflink) in a second map, which FIEMAP doesn't tell: it
// covers more than those blocks, so that what is written next to them may lie
// in what looks like a hole. There SEEK_DATA is asked of each hole. Rejected:
// FIEMAP on btrfs, which doesn't lock the range (Linux 6.8) and may miss an
// extent that is just being written back; FIEMAP_FLAG_SYNC, which would be
// right everywhere, but writes back all that is dirty in the file. Threads:
// any.
#ifndef NBDINETD_EXPORT_EXTENTS_H_
#define NBDINETD_EXPORT_EXTENTS_H_

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <vector>

#include "absl/functional/function_ref.h"

namespace nbdinetd {

// A run of bytes that is all hole (unallocated, reads as zeroes) or not.
struct Extent {
  uint64_t length_bytes;
  bool hole;
};
using Extents = std::pmr::vector<Extent>;

// Who is asked for the extents of a file, and what else has to be true of a
// hole.
enum class ExtentSource {
  kMap,              // FIEMAP, which counts dirty pages as data
  kMapWithoutHoles,  // FIEMAP, whose holes may be data all the same
  kSeek,             // SEEK_DATA and SEEK_HOLE, which count dirty pages as data
  // SEEK_DATA and SEEK_HOLE, which may take dirty pages for a hole: only where
  // the file's own page cache is clean.
  kSeekWhereClean,
  // The same, and the page cache may be another file's, as on overlayfs, or
  // another machine's: only after a sync.
  kSeekAfterSync,
};
// By the file system's type and the file's flags, which may change while it is
// open. Where neither is to be had, kSeekAfterSync.
ExtentSource ExtentSourceOf(int fd);

// The range that is asked for, in a file of which `size` bytes count.
struct ExtentQuery {
  uint64_t offset;
  uint64_t end;
  uint64_t size;
  size_t limit;  // of extents
};

// Whether a range of the file has no page that is dirty or under writeback.
using IsClean = absl::FunctionRef<bool(uint64_t offset, uint64_t length)>;

// Appends at most `limit` extents that start at `offset`; alternating, the last
// one perhaps reaching beyond `end`. `is_clean` is asked for kSeekWhereClean
// only; whoever passes kSeekAfterSync has synced the file. Returns 0, with at
// least one, or the storage's errno. Where the file system knows no holes, or
// the file has become shorter, all is data.
int FindExtents(int fd, const ExtentQuery& query, ExtentSource source,
                IsClean is_clean, Extents* out);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXTENTS_H_
