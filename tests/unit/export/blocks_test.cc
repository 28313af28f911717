#include "export/blocks.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

void ExpectWhole(Range range, Range wanted) {
  const Range whole = WholeBlocks(range.offset, range.length, 512);
  EXPECT_EQ(whole.offset, wanted.offset)
      << range.offset << ", " << range.length;
  EXPECT_EQ(whole.length, wanted.length)
      << range.offset << ", " << range.length;
}

TEST(WholeBlocks, BeginAndEndInTheRange) {
  ExpectWhole({0, 1024}, {0, 1024});
  ExpectWhole({1, 1024}, {512, 512});
  ExpectWhole({511, 1024}, {512, 512});
  ExpectWhole({512, 1100}, {512, 1024});
}

// The parts before and behind the whole blocks are then all of the range.
TEST(WholeBlocks, AreNoneInARangeWithout) {
  ExpectWhole({1, 100}, {101, 0});
  ExpectWhole({100, 412}, {512, 0});
  ExpectWhole({100, 600}, {512, 0});
  ExpectWhole({512, 0}, {512, 0});
  ExpectWhole({700, 0}, {700, 0});
}

}  // namespace
}  // namespace nbdinetd
