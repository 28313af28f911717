// Where the bytes of a read are zeroes, and may travel as a hole.
#ifndef NBDINETD_PROTOCOL_ZERO_BLOCKS_H_
#define NBDINETD_PROTOCOL_ZERO_BLOCKS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace nbdinetd {

// The shortest run of zeroes that is worth a chunk of its own, and its
// alignment in the export: a chunk's header costs as much as some hundred
// bytes.
inline constexpr size_t kZeroBlockBytes = 4096;

// The first run of whole blocks of zeroes: how many bytes lie before it, and
// how long it is. Without any, `before` is all there is.
struct ZeroRun {
  size_t before;
  size_t length;
};

// `bytes` are those of the export at `offset`.
ZeroRun FindZeroBlocks(uint64_t offset, absl::Span<const char> bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_ZERO_BLOCKS_H_
