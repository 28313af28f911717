// The values of the signals make the limits that they were made of, whatever
// held before; other values change nothing.
#include "base/limit_signal.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace nbdinetd {
namespace {

bool Same(const TransferLimit& a, const TransferLimit& b) {
  return a.per_second == b.per_second && a.burst == b.burst;
}
bool Same(const DirectionLimits& a, const DirectionLimits& b) {
  return Same(a.reads, b.reads) && Same(a.writes, b.writes) &&
         a.together == b.together;
}

TEST(LimitSignalTest, TheValuesMakeTheSameLimits) {
  const DirectionLimits kinds[] = {
      {.reads = {1 << 20, 0}, .together = true, .given = 1},
      {.reads = {1 << 20, 77}, .together = true, .given = 1},
      {.reads = {0, 0}, .together = true, .given = 1},
      {.reads = {5, 6}, .writes = {7, 8}, .given = 2},
      {.reads = {0, 0}, .writes = {kMaxSignalledLimit, 0}, .given = 2},
  };
  for (const DirectionLimits& before : kinds) {
    for (const DirectionLimits& bytes : kinds) {
      for (const DirectionLimits& requests : kinds) {
        TransferLimits limits = {.bytes = before, .requests = before};
        LimitSignalPart last = LimitSignalPart::kMore;
        for (const uint64_t value :
             EncodeLimits({.bytes = bytes, .requests = requests})) {
          ASSERT_EQ(last, LimitSignalPart::kMore);
          last = ApplyLimitSignal(value, limits);
        }
        EXPECT_EQ(last, LimitSignalPart::kLast);
        EXPECT_TRUE(Same(limits.bytes, bytes));
        EXPECT_TRUE(Same(limits.requests, requests));
      }
    }
  }
}

TEST(LimitSignalTest, AKindThatWasNotGivenStays) {
  const DirectionLimits before = {
      .reads = {3, 4}, .together = true, .given = 1};
  TransferLimits limits = {.bytes = before, .requests = before};
  const DirectionLimits bytes = {.reads = {9}, .together = true, .given = 1};
  for (const uint64_t value : EncodeLimits({.bytes = bytes})) {
    EXPECT_NE(ApplyLimitSignal(value, limits), LimitSignalPart::kMeaningless);
  }
  EXPECT_TRUE(Same(limits.bytes, bytes));
  EXPECT_TRUE(Same(limits.requests, before));
}

TEST(LimitSignalTest, LargeNumbersAreCut) {
  TransferLimits limits;
  for (const uint64_t value :
       EncodeLimits({.bytes = {.reads = {UINT64_MAX, UINT64_MAX},
                              .together = true,
                              .given = 1}})) {
    EXPECT_NE(ApplyLimitSignal(value, limits), LimitSignalPart::kMeaningless);
  }
  EXPECT_EQ(limits.bytes.reads.per_second, kMaxSignalledLimit);
  EXPECT_EQ(limits.bytes.reads.burst, kMaxSignalledLimit);
}

TEST(LimitSignalTest, OtherValuesChangeNothing) {
  const DirectionLimits before = {
      .reads = {3, 4}, .writes = {5, 6}, .given = 2};
  TransferLimits limits = {.bytes = before, .requests = before};
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{1}, uint64_t{1} << 62, UINT64_MAX,
        uint64_t{1} << 63 | uint64_t{5} << 58}) {
    EXPECT_EQ(ApplyLimitSignal(value, limits), LimitSignalPart::kMeaningless)
        << value;
  }
  EXPECT_TRUE(Same(limits.bytes, before));
  EXPECT_TRUE(Same(limits.requests, before));
}

}  // namespace
}  // namespace nbdinetd
