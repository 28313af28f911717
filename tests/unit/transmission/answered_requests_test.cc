#include "transmission/answered_requests.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "protocol/nbd.h"

namespace nbdinetd {
namespace {

const absl::Time kReceived = absl::UnixEpoch() + absl::Hours(1);

Request Make(uint16_t type, uint64_t length, absl::Time received = kReceived) {
  Request request;
  request.type = type;
  request.length = length;
  request.received = received;
  return request;
}

struct Counted {
  Statistics statistics;
  AnsweredRequests answered{statistics};

  const CommandStatistics& of(Command command) {
    return statistics.of(command);
  }
};

TEST(AnsweredRequests, CountWhenTheyAreSent) {
  Counted counted;
  counted.answered.Add(Make(NBD_CMD_READ, 4096), true);
  EXPECT_EQ(counted.of(Command::kRead).latency.count(), 0u);
  EXPECT_EQ(counted.of(Command::kRead).size.count(), 0u);
  counted.answered.CountSent(kReceived + absl::Microseconds(16));
  const CommandStatistics& read = counted.of(Command::kRead);
  EXPECT_EQ(read.latency.count(4), 1u);
  EXPECT_EQ(read.latency.sum(), 16000u);
  EXPECT_EQ(read.size.count(3), 1u);
  EXPECT_EQ(read.size.sum(), 4096u);
  EXPECT_EQ(counted.statistics.longest_request(), absl::Microseconds(16));
  // Once.
  counted.answered.CountSent(kReceived + absl::Seconds(1));
  EXPECT_EQ(read.latency.count(), 1u);
  EXPECT_EQ(counted.statistics.longest_request(), absl::Microseconds(16));
}

TEST(AnsweredRequests, AreCountedByCommand) {
  Counted counted;
  constexpr uint16_t kTypes[kCommands] = {
      NBD_CMD_READ,         NBD_CMD_WRITE,        NBD_CMD_FLUSH, NBD_CMD_TRIM,
      NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS, NBD_CMD_CACHE};
  constexpr Command kWanted[kCommands] = {
      Command::kRead, Command::kWrite,       Command::kFlush,
      Command::kTrim, Command::kWriteZeroes, Command::kBlockStatus,
      Command::kCache};
  for (size_t i = 0; i < kCommands; ++i) {
    for (size_t times = 0; times <= i; ++times) {
      counted.answered.Add(Make(kTypes[i], 512), true);
    }
  }
  counted.answered.CountSent(kReceived);
  for (size_t i = 0; i < kCommands; ++i) {
    EXPECT_EQ(counted.of(kWanted[i]).latency.count(), i + 1);
    // A flush has no size.
    EXPECT_EQ(counted.of(kWanted[i]).size.count(),
              kWanted[i] == Command::kFlush ? 0 : i + 1);
  }
}

TEST(AnsweredRequests, OfAnUnknownCommandAreNotCounted) {
  Counted counted;
  counted.answered.Add(Make(NBD_CMD_DISC, 0), true);
  counted.answered.Add(Make(77, 0), false);
  counted.answered.CountSent(kReceived);
  for (const Command command : kAllCommands) {
    EXPECT_EQ(counted.of(command).latency.count(), 0u);
  }
}

// A refused request may name any length.
TEST(AnsweredRequests, ThatFailedHaveNoSize) {
  Counted counted;
  counted.answered.Add(Make(NBD_CMD_TRIM, UINT64_MAX), false);
  counted.answered.Add(Make(NBD_CMD_TRIM, 512), true);
  counted.answered.Add(Make(NBD_CMD_TRIM, UINT64_MAX), false);
  counted.answered.CountSent(kReceived);
  EXPECT_EQ(counted.of(Command::kTrim).latency.count(), 3u);
  EXPECT_EQ(counted.of(Command::kTrim).size.count(), 1u);
  EXPECT_EQ(counted.of(Command::kTrim).size.sum(), 512u);
}

TEST(AnsweredRequests, TheRestOfAReadHasTheLengthThatTheClientSent) {
  Counted counted;
  Request rest = Make(NBD_CMD_READ, 1000);
  rest.sent_offset = 4096;
  rest.offset = 7192;
  counted.answered.Add(rest, true);
  counted.answered.CountSent(kReceived);
  EXPECT_EQ(counted.of(Command::kRead).size.sum(), 4096u);
}

TEST(AnsweredRequests, AThousandEqualOnesAreOneRun) {
  Counted counted;
  for (int i = 0; i < 1000; ++i) {
    // Sizes of one bucket.
    counted.answered.Add(Make(NBD_CMD_WRITE, 3000 + i), true);
    EXPECT_FALSE(counted.answered.full());
  }
  counted.answered.CountSent(kReceived + absl::Microseconds(2));
  const CommandStatistics& write = counted.of(Command::kWrite);
  EXPECT_EQ(write.latency.count(1), 1000u);
  EXPECT_EQ(write.latency.sum(), 1000 * 2000u);
  EXPECT_EQ(write.size.count(3), 1000u);
  EXPECT_EQ(write.size.sum(), 3000 * 1000 + 999 * 1000 / 2u);
}

TEST(AnsweredRequests,
     DifferentOnesKeepTheirTimesAndSizesUntilThereAreTooMany) {
  Counted counted;
  for (size_t i = 0; i < AnsweredRequests::kMaxRuns; ++i) {
    EXPECT_FALSE(counted.answered.full());
    counted.answered.Add(
        Make(NBD_CMD_READ, 512, kReceived + absl::Microseconds(i)), true);
  }
  EXPECT_TRUE(counted.answered.full());
  const auto runs = static_cast<int64_t>(AnsweredRequests::kMaxRuns);
  counted.answered.CountSent(kReceived + absl::Microseconds(runs));
  EXPECT_FALSE(counted.answered.full());
  const CommandStatistics& read = counted.of(Command::kRead);
  EXPECT_EQ(read.latency.count(), AnsweredRequests::kMaxRuns);
  EXPECT_EQ(read.latency.sum(), 1000u * runs * (runs + 1) / 2);
  EXPECT_EQ(counted.statistics.longest_request(), absl::Microseconds(runs));
}

TEST(AnsweredRequests, ThatWillNotBeSentAreNotCounted) {
  Counted counted;
  counted.answered.Add(Make(NBD_CMD_READ, 512), true);
  counted.answered.Drop();
  counted.answered.CountSent(kReceived);
  EXPECT_EQ(counted.of(Command::kRead).latency.count(), 0u);
}

}  // namespace
}  // namespace nbdinetd
