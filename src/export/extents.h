// What of a file is data, and what is hole.
//
// Two ways. SEEK_DATA and SEEK_HOLE work everywhere, and take two system calls
// for each extent. FS_IOC_FIEMAP tells hundreds in one, but tells of what is on
// the storage: what has been written and is only in the page cache yet is told
// by file systems that report delayed allocation, and known to be told by those
// named in extents.cc. Even there the pages of an unwritten extent may hold data
// already, so that within one the first way is asked. And XFS keeps what replaces
// blocks that a file shares with another (a reflink) in a second map, which this
// call doesn't tell: it covers more than those blocks, and so what is written next
// to them may lie in what looks like a hole. There the first way is asked of each
// hole.
// Rejected: FIEMAP_FLAG_SYNC, which would be right everywhere, but writes back all
// that is dirty in the file, and waits for it. Threads: any.
#ifndef NBDINETD_EXPORT_EXTENTS_H_
#define NBDINETD_EXPORT_EXTENTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nbdinetd {

// A run of bytes that is all hole (unallocated, reads as zeroes) or not.
struct Extent {
  uint64_t length_bytes;
  bool hole;
};

// What can be trusted of the map of a file's file system.
enum class ExtentMap {
  kNone,     // there is none, or it isn't known to tell of what isn't written back
  kNoHoles,  // what it leaves out may be data all the same
  kAll,
};
ExtentMap ExtentMapOf(int fd);

// Appends at most `limit` extents of the file, of which `size` bytes count, that
// start at `offset`; alternating, the last one perhaps reaching beyond `end`.
// Returns 0, with at least one, or the storage's errno. Where the file system
// knows no holes, or the file has become shorter, all is data.
int FindExtents(int fd, uint64_t offset, uint64_t end, uint64_t size,
                size_t limit, ExtentMap map, std::vector<Extent>* out);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXTENTS_H_
