#include "protocol/zero_blocks.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace nbdinetd {
namespace {

constexpr size_t kBlock = kZeroBlockBytes;

ZeroRun Find(uint64_t offset, const std::string& bytes) {
  return FindZeroBlocks(offset, {bytes.data(), bytes.size()});
}

std::string Bytes(std::initializer_list<std::pair<size_t, char>> runs) {
  std::string bytes;
  for (const auto& [length, byte] : runs) bytes.append(length, byte);
  return bytes;
}

#define EXPECT_RUN(run, before_, length_)                  \
  do {                                                     \
    const ZeroRun found = run;                             \
    EXPECT_EQ(found.before, static_cast<size_t>(before_)); \
    EXPECT_EQ(found.length, static_cast<size_t>(length_)); \
  } while (false)

TEST(FindZeroBlocks, FindsWholeBlocks) {
  EXPECT_RUN(Find(0, Bytes({{kBlock, 'x'}})), kBlock, 0);
  EXPECT_RUN(Find(0, Bytes({{kBlock, '\0'}})), 0, kBlock);
  EXPECT_RUN(Find(0, Bytes({{kBlock, 'x'}, {2 * kBlock, '\0'}, {kBlock, 'x'}})),
             kBlock, 2 * kBlock);
  EXPECT_RUN(Find(0, Bytes({{3 * kBlock, '\0'}, {1, 'x'}})), 0, 3 * kBlock);
  EXPECT_RUN(Find(0, ""), 0, 0);
}

TEST(FindZeroBlocks, NoBlockIsZeroThatHasOneOtherByte) {
  std::string bytes(kBlock, '\0');
  for (size_t at = 0; at < kBlock; ++at) {
    bytes[at] = '\x80';
    EXPECT_RUN(Find(0, bytes), kBlock, 0);
    bytes[at] = '\0';
  }
}

// Blocks are those of the export: a chunk should begin at a multiple of 512.
TEST(FindZeroBlocks, BlocksAreAlignedInTheExport) {
  EXPECT_RUN(Find(kBlock - 512, Bytes({{512 + kBlock, '\0'}})), 512, kBlock);
  EXPECT_RUN(Find(1, Bytes({{kBlock, '\0'}})), kBlock, 0);
  EXPECT_RUN(Find(1, Bytes({{2 * kBlock - 1, '\0'}})), kBlock - 1, kBlock);
  EXPECT_RUN(Find((uint64_t{1} << 40) + 100, Bytes({{100, '\0'}})), 100, 0);
}

TEST(FindZeroBlocks, AgreesWithASlowSearch) {
  std::mt19937 random(9);
  for (int round = 0; round < 2000; ++round) {
    const uint64_t offset = random() % (3 * kBlock);
    std::string bytes(random() % (6 * kBlock), '\0');
    for (size_t i = random() % 5; i > 0 && !bytes.empty(); --i)
      bytes[random() % bytes.size()] = 'x';
    size_t before = bytes.size(), length = 0;
    const size_t first = (kBlock - offset % kBlock) % kBlock;
    for (size_t at = first; at + kBlock <= bytes.size(); at += kBlock) {
      const bool zero = bytes.find_first_not_of('\0', at) >= at + kBlock;
      if (zero && length == 0) before = at;
      if (zero) length += kBlock;
      if (!zero && length > 0) break;
    }
    EXPECT_RUN(Find(offset, bytes), before, length);
  }
}

}  // namespace
}  // namespace nbdinetd
