// How reads and writes beside the page cache (O_DIRECT) have to be aligned.
#ifndef NBDINETD_EXPORT_DIRECT_ALIGNMENT_H_
#define NBDINETD_EXPORT_DIRECT_ALIGNMENT_H_

#include <cstdint>

namespace nbdinetd {

// The largest alignment that is served: that of the largest blocks of file
// systems.
inline constexpr uint64_t kMaxDirectAlignment = 64 << 10;

// The alignment of offsets, lengths and memory, in bytes, for the file or block
// device `fd`, which is open with O_DIRECT: a power of 2, at least 512.
// statx(2) tells it since Linux 6.1; elsewhere a read tries it. 0: there is
// none up to kMaxDirectAlignment, or the file system can't pass by the page
// cache.
uint64_t DirectAlignment(int fd);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_DIRECT_ALIGNMENT_H_
