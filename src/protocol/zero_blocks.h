// Finds zeroes in the data of a read, which may be sent as
// NBD_REPLY_TYPE_OFFSET_HOLE.
#ifndef NBDINETD_PROTOCOL_ZERO_BLOCKS_H_
#define NBDINETD_PROTOCOL_ZERO_BLOCKS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace nbdinetd {

// The shortest run of zeroes that is sent as a chunk of its own, and its
// alignment in the export. A chunk's header costs as much as a few hundred
// bytes.
inline constexpr size_t kZeroBlockBytes = 4096;

// The first run of whole blocks of zeroes: the number of bytes before it, and
// its length in bytes. Without one, `before` is the number of all bytes, and
// `length` 0.
struct ZeroRun {
  size_t before;
  size_t length;
};

// `bytes` are the export's data at `offset`.
ZeroRun FindZeroBlocks(uint64_t offset, absl::Span<const char> bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_ZERO_BLOCKS_H_
