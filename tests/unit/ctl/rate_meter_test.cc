#include "ctl/rate_meter.h"

#include <gtest/gtest.h>

namespace nbdinetd::ctl {
namespace {

constexpr uint64_t kMiB = 1 << 20;
const absl::Time kStart = absl::FromUnixSeconds(1000);

absl::Time At(int milliseconds) {
  return kStart + absl::Milliseconds(milliseconds);
}

Counters ReadSoFar(uint64_t bytes) {
  return {.requests = bytes / 4096, .bytes_read = bytes};
}

// The status at that time of a connection that transfers a MiB a second, and
// has reported first at `phase`, then every 1020 ms.
Counters Reported(int milliseconds, int phase) {
  const int reports = (milliseconds - phase + 10 * 1020) / 1020 - 10;
  return ReadSoFar(static_cast<uint64_t>((10 * 1020 + phase + reports * 1020)) *
                   kMiB / 1000);
}

TEST(RateMeter, ASteadyRateIsMeasuredWhateverTheTimeOfTheReports) {
  for (int phase = 0; phase < 1020; phase += 17) {
    RateMeter meter;
    int now = 0;
    for (; !meter.IsSettled(At(now)); now += 100) {
      ASSERT_LT(now, 3000);
      meter.Note(Reported(now, phase), At(now));
    }
    EXPECT_NEAR(static_cast<double>(meter.rates().read), kMiB, 0.15 * kMiB)
        << phase;
    EXPECT_EQ(meter.rates().written, 0u);
  }
}

TEST(RateMeter, AnIdleConnectionIsSettledAfterAWhile) {
  RateMeter meter;
  EXPECT_FALSE(meter.IsSettled(At(0)));
  for (int now = 0; now < 2500; now += 100) {
    meter.Note(ReadSoFar(kMiB), At(now));
    EXPECT_FALSE(meter.IsSettled(At(now)));
  }
  EXPECT_TRUE(meter.IsSettled(At(2500)));
  EXPECT_EQ(meter.rates().read, 0u);
}

TEST(RateMeter, OneChangeCountsOverTheWholeTime) {
  RateMeter meter;
  meter.Note(ReadSoFar(kMiB), At(0));
  meter.Note(ReadSoFar(2 * kMiB), At(100));
  EXPECT_FALSE(meter.IsSettled(At(2600)));
  meter.Note(ReadSoFar(2 * kMiB), At(4000));
  EXPECT_EQ(meter.rates().read, kMiB / 4);
}

TEST(RateMeter, WhatIsWrittenHasARateOfItsOwn) {
  RateMeter meter;
  for (uint64_t i = 0; i < 3; ++i) {
    meter.Note({.bytes_read = i * kMiB, .bytes_written = i * 3 * kMiB},
               At(static_cast<int>(i) * 1000));
  }
  EXPECT_EQ(meter.rates().read, kMiB);
  EXPECT_EQ(meter.rates().written, 3 * kMiB);
}

TEST(RateMeter, ACounterThatHasFallenIsAnotherConnections) {
  RateMeter meter;
  meter.Note(ReadSoFar(8 * kMiB), At(0));
  meter.Note(ReadSoFar(9 * kMiB), At(1000));
  meter.Note(ReadSoFar(kMiB), At(2000));
  EXPECT_EQ(meter.rates().read, 0u);
  meter.Note(ReadSoFar(2 * kMiB), At(3000));
  EXPECT_EQ(meter.rates().read, kMiB);
}

TEST(RateMeter, NoTimeIsNoRate) {
  RateMeter meter;
  EXPECT_EQ(meter.rates().read, 0u);
  meter.Note(ReadSoFar(kMiB), At(0));
  meter.Note(ReadSoFar(2 * kMiB), At(0));
  meter.Note(ReadSoFar(3 * kMiB), At(0));
  EXPECT_EQ(meter.rates().read, 0u);
}

}  // namespace
}  // namespace nbdinetd::ctl
