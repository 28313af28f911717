#include "protocol/zero_blocks.h"

#include <algorithm>
#include <cstring>

namespace nbdinetd {
namespace {

const char kZeroes[kZeroBlockBytes] = {};

// In most blocks the first bytes differ already. For the others, memcmp() uses
// the widest instructions of the processor.
bool IsZeroBlock(const char* block) {
  return std::memcmp(block, kZeroes, kZeroBlockBytes) == 0;
}

}  // namespace

ZeroRun FindZeroBlocks(uint64_t offset, absl::Span<const char> bytes) {
  const auto past_block = static_cast<size_t>(offset % kZeroBlockBytes);
  size_t begin = past_block == 0 ? 0 : kZeroBlockBytes - past_block;
  while (begin + kZeroBlockBytes <= bytes.size() &&
         !IsZeroBlock(bytes.data() + begin)) {
    begin += kZeroBlockBytes;
  }
  if (begin + kZeroBlockBytes > bytes.size()) return {bytes.size(), 0};
  size_t end = begin + kZeroBlockBytes;
  while (end + kZeroBlockBytes <= bytes.size() &&
         IsZeroBlock(bytes.data() + end)) {
    end += kZeroBlockBytes;
  }
  return {begin, end - begin};
}

}  // namespace nbdinetd
