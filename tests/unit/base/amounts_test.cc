// Numbers, sizes and times for people.
#include "base/amounts.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

TEST(Counted, HasAPluralUnlessItIsOne) {
  EXPECT_EQ(Counted(0, "request"), "0 requests");
  EXPECT_EQ(Counted(1, "request"), "1 request");
  EXPECT_EQ(Counted(2, "request"), "2 requests");
}

TEST(Amount, HasTheLargestUnitThatFits) {
  EXPECT_EQ(Amount(0), "0 bytes");
  EXPECT_EQ(Amount(1), "1 byte");
  EXPECT_EQ(Amount(1023), "1023 bytes");
  EXPECT_EQ(Amount(1024), "1 KiB");
  EXPECT_EQ(Amount(1536), "1.5 KiB");
  EXPECT_EQ(Amount(uint64_t{64} << 20), "64 MiB");
  EXPECT_EQ(Amount(uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(Amount(uint64_t{1} << 40), "1 TiB");
  EXPECT_EQ(Amount(UINT64_MAX), "16384 PiB");
}

TEST(Amount, IsNever1024OfAUnit) {
  EXPECT_EQ(Amount((1 << 20) - 1), "1 MiB");
  EXPECT_EQ(Amount((1 << 20) - 103), "1023.9 KiB");
  EXPECT_EQ(Amount((uint64_t{1} << 30) - 1), "1 GiB");
}

TEST(ExactAmount, HasBothFrom1024On) {
  EXPECT_EQ(ExactAmount(0), "0 bytes");
  EXPECT_EQ(ExactAmount(1), "1 byte");
  EXPECT_EQ(ExactAmount(1023), "1023 bytes");
  EXPECT_EQ(ExactAmount(1024), "1024 bytes (1 KiB)");
  EXPECT_EQ(ExactAmount(uint64_t{3} << 29), "1610612736 bytes (1.5 GiB)");
}

TEST(RoughTime, HasTheFirstFiguresOnly) {
  EXPECT_EQ(RoughTime(absl::ZeroDuration()), "0 us");
  EXPECT_EQ(RoughTime(absl::Microseconds(999)), "999 us");
  EXPECT_EQ(RoughTime(absl::Microseconds(1999)), "1 ms");
  EXPECT_EQ(RoughTime(absl::Milliseconds(999)), "999 ms");
  EXPECT_EQ(RoughTime(absl::Seconds(1)), "1 s");
  EXPECT_EQ(RoughTime(absl::Milliseconds(1234)), "1.2 s");
  EXPECT_EQ(RoughTime(absl::Milliseconds(59949)), "59.9 s");
  EXPECT_EQ(RoughTime(absl::Milliseconds(59950)), "1 min 0 s");
  EXPECT_EQ(RoughTime(absl::Seconds(252)), "4 min 12 s");
  EXPECT_EQ(RoughTime(absl::Minutes(185)), "3 h 5 min");
  EXPECT_EQ(RoughTime(absl::Hours(55)), "2 d 7 h");
}

}  // namespace
}  // namespace nbdinetd
