// Whole blocks inside a range of bytes: what can be trimmed or zeroed by one
// call. Plain values.
#ifndef NBDINETD_EXPORT_BLOCKS_H_
#define NBDINETD_EXPORT_BLOCKS_H_

#include <algorithm>
#include <cstdint>

namespace nbdinetd {

struct Range {
  uint64_t offset;
  uint64_t length;

  uint64_t end() const { return offset + length; }
};

// The whole blocks of `block_bytes` inside of [offset, offset + length), which
// begin and end inside of it. Where there is none, the length is 0, and the
// offset is where the first block would begin, or the end of the range.
inline Range WholeBlocks(uint64_t offset, uint64_t length,
                         uint64_t block_bytes) {
  const uint64_t end = offset + length;
  const uint64_t first = (offset + block_bytes - 1) / block_bytes * block_bytes;
  const uint64_t begin = std::min(first, end);
  return {begin, std::max(end / block_bytes * block_bytes, begin) - begin};
}

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_BLOCKS_H_
