// The clock is a number: what is held goes on when its time has come, and a
// limit holds over every stretch of time.
#include "transmission/pacer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/limits.h"
#include "protocol/nbd.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kKiB = 1 << 10;
constexpr uint64_t kMiB = 1 << 20;
constexpr absl::Time kStart = absl::UnixEpoch();

Request Of(uint16_t type, uint64_t length) {
  Request request;
  request.type = type;
  request.length = length;
  return request;
}
Request Read(uint64_t length) { return Of(NBD_CMD_READ, length); }
Request Write(uint64_t length) { return Of(NBD_CMD_WRITE, length); }

DirectionLimits Both(uint64_t per_second, uint64_t burst = 0) {
  return {.reads = {per_second, burst}, .together = true, .given = 1};
}
DirectionLimits Each(TransferLimit reads, TransferLimit writes) {
  return {.reads = reads, .writes = writes, .given = 2};
}

// When each of the held requests went on.
struct Gone {
  absl::Time at;
  Request request;
};
std::vector<Gone> Drain(Pacer& pacer, absl::Time now) {
  std::vector<Gone> gone;
  while (!pacer.empty()) {
    while (const std::optional<Pacer::Held> due =
               pacer.TakeDue(now, /*can_start=*/true)) {
      gone.push_back({now, due->request});
    }
    if (pacer.empty()) break;
    const absl::Time next = pacer.next(now, /*can_start=*/true);
    EXPECT_GT(next, now) << "nothing is due, and nothing will be";
    now = next;
  }
  return gone;
}

TEST(PacerTest, WithoutALimitThereIsNothingToHold) {
  EXPECT_FALSE(Pacer({}).limits());
  EXPECT_FALSE(Pacer({.bytes = Each({}, {})}).limits());
  EXPECT_TRUE(Pacer({.bytes = Both(1)}).limits());
  EXPECT_TRUE(Pacer({.requests = Each({}, {1, 0})}).limits());
}

TEST(PacerTest, NoStretchOfTimeHasMoreThanTheLimit) {
  constexpr uint64_t kRate = 10 * kMiB;
  constexpr uint64_t kBurst = kMiB;
  for (const uint64_t length : {4 * kKiB, 64 * kKiB, 300 * kKiB, 3 * kMiB}) {
    Pacer pacer({.bytes = Both(kRate, kBurst)});
    for (int i = 0; i < 200; ++i) pacer.Hold({Read(length)});
    const std::vector<Gone> gone = Drain(pacer, kStart);
    ASSERT_EQ(gone.size(), 200u);
    for (size_t i = 0; i < gone.size(); ++i) {
      uint64_t bytes = 0;
      for (size_t k = i; k < gone.size(); ++k) {
        bytes += gone[k].request.length;
        const double seconds = absl::ToDoubleSeconds(gone[k].at - gone[i].at);
        // The last one may take more tokens than there are.
        ASSERT_LE(static_cast<double>(bytes),
                  seconds * kRate + kBurst + static_cast<double>(length) + 1)
            << length << " from " << i << " to " << k;
      }
    }
  }
}

TEST(PacerTest, AllOfTheLimitCanBeUsed) {
  constexpr uint64_t kRate = 10 * kMiB;
  Pacer pacer({.bytes = Both(kRate)});
  for (int i = 0; i < 1000; ++i) pacer.Hold({Read(64 * kKiB)});
  const std::vector<Gone> gone = Drain(pacer, kStart);
  const double seconds = absl::ToDoubleSeconds(gone.back().at - kStart);
  EXPECT_NEAR(seconds, 1000.0 * 64 * kKiB / kRate, 0.2);
}

TEST(PacerTest, SmallRequestsGoOnOneByOne) {
  Pacer pacer({.bytes = Both(kMiB)});
  for (int i = 0; i < 1000; ++i) pacer.Hold({Read(4 * kKiB)});
  const std::vector<Gone> gone = Drain(pacer, kStart);
  std::vector<absl::Duration> gaps;
  // Behind the first burst, of a tenth of a second.
  for (size_t i = 1; i < gone.size(); ++i) {
    if (gone[i].at > kStart) gaps.push_back(gone[i].at - gone[i - 1].at);
  }
  std::sort(gaps.begin(), gaps.end());
  ASSERT_GT(gaps.size(), 900u);
  const absl::Duration each = absl::Seconds(4.0 * kKiB / kMiB);
  EXPECT_LE(gaps[gaps.size() * 99 / 100], 1.01 * each);
  EXPECT_GE(gaps[gaps.size() / 100], 0.99 * each);
}

TEST(PacerTest, OneLimitHoldsForBothDirectionsWhichTakeTurns) {
  Pacer pacer({.requests = Both(100, 1)});
  for (int i = 0; i < 20; ++i) pacer.Hold({Read(512)});
  for (int i = 0; i < 20; ++i) pacer.Hold({Write(512)});
  const std::vector<Gone> gone = Drain(pacer, kStart);
  ASSERT_EQ(gone.size(), 40u);
  for (size_t i = 1; i < gone.size(); ++i) {
    EXPECT_NE(gone[i].request.type, gone[i - 1].request.type) << i;
  }
  EXPECT_GE(gone.back().at - kStart, absl::Milliseconds(380));
}

TEST(PacerTest, DirectionsWithLimitsOfTheirOwnDontWaitForEachOther) {
  Pacer pacer({.bytes = Each({}, {kMiB, 4 * kKiB})});
  for (int i = 0; i < 10; ++i) pacer.Hold({Write(256 * kKiB / 10)});
  for (int i = 0; i < 10; ++i) pacer.Hold({Read(32 * kMiB)});
  const std::vector<Gone> gone = Drain(pacer, kStart);
  for (const Gone& one : gone) {
    if (one.request.type == NBD_CMD_READ) {
      EXPECT_EQ(one.at, kStart);
    }
  }
  EXPECT_GE(gone.back().at - kStart, absl::Milliseconds(200));
}

TEST(PacerTest, TrimsAndZeroesAreRequestsWithoutBytes) {
  Pacer pacer({.bytes = Both(1), .requests = Both(1000)});
  pacer.Hold({Of(NBD_CMD_TRIM, uint64_t{1} << 44)});
  pacer.Hold({Of(NBD_CMD_WRITE_ZEROES, uint64_t{1} << 44)});
  pacer.Hold({Of(NBD_CMD_CACHE, uint64_t{1} << 44)});
  pacer.Hold({Of(NBD_CMD_BLOCK_STATUS, uint64_t{1} << 44)});
  EXPECT_EQ(Drain(pacer, kStart).back().at, kStart);
}

// A request is held before its length is looked at.
TEST(PacerTest, AnImpossibleLengthIsOwedAsTheLongestPossible) {
  Pacer pacer({.bytes = Both(kMaxPayloadBytes)});
  pacer.Hold({Read(UINT64_MAX)});
  pacer.Hold({Read(512)});
  EXPECT_LE(Drain(pacer, kStart).back().at, kStart + absl::Seconds(1.1));
}

TEST(PacerTest, FlushesAreNeverHeld) {
  EXPECT_FALSE(Pacer::Holds(NBD_CMD_FLUSH));
  EXPECT_FALSE(Pacer::Holds(NBD_CMD_DISC));
  // One without bytes is carried out, and its reply is held.
  EXPECT_FALSE(Pacer::Holds(NBD_CMD_WRITE));
  EXPECT_TRUE(Pacer::Holds(NBD_CMD_WRITE_ZEROES));
}

TEST(PacerTest, ThereIsABoundOnWhatIsHeld) {
  Pacer pacer({.bytes = Both(1)});
  for (size_t i = 0; i < kMaxHeldRequests; ++i) {
    EXPECT_FALSE(pacer.full());
    pacer.Hold({Read(4 * kKiB)});
  }
  EXPECT_TRUE(pacer.full());
  while (pacer.TakeAny().has_value()) {
  }
  EXPECT_TRUE(pacer.empty());
  for (uint64_t bytes = 0; bytes < kMaxHeldBytes; bytes += 64 * kKiB) {
    EXPECT_FALSE(pacer.full());
    pacer.Hold({Write(64 * kKiB)});
  }
  EXPECT_TRUE(pacer.full());
}

TEST(PacerTest, RepliesGoOutWhileNothingCanStart) {
  Pacer pacer({.requests = Both(100, 10)});
  pacer.Hold({Read(512)});
  pacer.Hold({Write(512)});
  const std::optional<Pacer::Held> due =
      pacer.TakeDue(kStart, /*can_start=*/false);
  ASSERT_TRUE(due.has_value());
  EXPECT_EQ(due->request.type, NBD_CMD_WRITE);
  EXPECT_FALSE(pacer.TakeDue(kStart, /*can_start=*/false).has_value());
  EXPECT_EQ(pacer.next(kStart, /*can_start=*/false), absl::InfiniteFuture());
  EXPECT_EQ(pacer.next(kStart, /*can_start=*/true), kStart);
}

TEST(PacerTest, AnotherLimitHoldsForWhatIsHeldAlready) {
  Pacer pacer({.bytes = Both(kMiB)});
  for (int i = 0; i < 8; ++i) pacer.Hold({Read(kMiB)});
  ASSERT_TRUE(pacer.TakeDue(kStart, /*can_start=*/true).has_value());
  ASSERT_FALSE(pacer.TakeDue(kStart, /*can_start=*/true).has_value());
  // What was taken beyond the tokens stays owed, and is paid sooner.
  pacer.Change({.bytes = Both(16 * kMiB)}, kStart);
  const absl::Time next = pacer.next(kStart, /*can_start=*/true);
  EXPECT_GT(next, kStart);
  EXPECT_LE(next, kStart + absl::Seconds(1) / 16);
  pacer.Change({}, kStart);
  EXPECT_FALSE(pacer.limits());
  EXPECT_EQ(Drain(pacer, kStart).back().at, kStart);
}

// A connection that has used all of a high limit owes nothing beyond its last
// request.
TEST(PacerTest, ALowerLimitHoldsUpNoLongerThanItself) {
  for (const uint64_t burst : {uint64_t{0}, 1024 * kMiB}) {
    Pacer pacer({.bytes = Both(1024 * kMiB, burst)});
    for (int i = 0; i < 5000; ++i) pacer.Hold({Read(kMiB)});
    const absl::Time now = Drain(pacer, kStart).back().at;
    pacer.Change({.bytes = Both(kMiB)}, now);
    pacer.Hold({Read(kMiB)});
    // The last request, of 1 MiB, and the first token.
    EXPECT_LE(pacer.next(now, /*can_start=*/true), now + absl::Seconds(1.11));
  }
}

TEST(PacerTest, TokensThatAreLeftStayUpToTheNewBurst) {
  Pacer pacer({.requests = Both(10, 1000)});
  pacer.Hold({Read(512)});
  EXPECT_EQ(Drain(pacer, kStart).back().at, kStart);
  pacer.Change({.requests = Both(10, 5)}, kStart);
  for (int i = 0; i < 50; ++i) pacer.Hold({Read(512)});
  size_t at_once = 0;
  while (pacer.TakeDue(kStart, /*can_start=*/true).has_value()) ++at_once;
  EXPECT_EQ(at_once, 5u);
}

TEST(PacerTest, DirectionsThatArePartedBothOweWhatTheyOwedTogether) {
  Pacer pacer({.bytes = Both(kMiB)});
  pacer.Hold({Write(8 * kMiB)});
  ASSERT_TRUE(pacer.TakeDue(kStart, /*can_start=*/true).has_value());
  pacer.Change({.bytes = Each({kMiB}, {kMiB})}, kStart);
  pacer.Hold({Write(kMiB)});
  EXPECT_GE(pacer.next(kStart, /*can_start=*/true), kStart + absl::Seconds(7));
}

TEST(PacerTest, ALimitThatComesLaterBeginsWithItsBurst) {
  Pacer pacer({});
  pacer.Change({.requests = Both(100, 10)}, kStart);
  EXPECT_TRUE(pacer.limits());
  for (int i = 0; i < 50; ++i) pacer.Hold({Read(512)});
  size_t at_once = 0;
  while (pacer.TakeDue(kStart, /*can_start=*/true).has_value()) ++at_once;
  EXPECT_EQ(at_once, 10u);
}

// Without requests, no more tokens are saved than the burst.
TEST(PacerTest, APauseSavesTheBurstAndNoMore) {
  Pacer pacer({.requests = Both(100, 10)});
  absl::Time now = kStart;
  for (int pause = 0; pause < 3; ++pause) {
    for (int i = 0; i < 50; ++i) pacer.Hold({Read(512)});
    size_t at_once = 0;
    while (pacer.TakeDue(now, /*can_start=*/true).has_value()) ++at_once;
    EXPECT_EQ(at_once, 10u);
    now = Drain(pacer, now).back().at + absl::Hours(1);
  }
}

}  // namespace
}  // namespace nbdinetd
