#include "stream/stall_watch.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <optional>

#include "absl/time/clock.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

constexpr absl::Duration kTimeout = absl::Milliseconds(40);

// To a TCP peer: something is on its way, and nothing of it moves.
class StuckStream : public Stream {
 public:
  ssize_t Read(absl::Span<char>) override { return -EAGAIN; }
  ssize_t Write(absl::Span<const iovec>, bool) override { return -EAGAIN; }
  void Abort() override {}
  std::optional<size_t> unread_bytes() const override { return 100; }
  std::optional<uint64_t> acknowledged_bytes() const override { return 5; }
  int input_fd() const override { return -1; }
  int output_fd() const override { return -1; }
};

void LookUntilGivenUp(StallWatch& watch, const Stream& stream) {
  do {
    ASSERT_NE(watch.due(), absl::InfiniteFuture());
    absl::SleepFor(watch.due() - SteadyNow());
  } while (!watch.Look(stream));
}

TEST(StallWatch, WhileTheOutputIsBlockedThatIsTheReason) {
  const StuckStream stream;
  StallWatch watch(kTimeout);
  watch.NoteSent(stream, SteadyNow());
  // What is on its way has stood still for longer than the output is blocked.
  absl::SleepFor(watch.due() - SteadyNow());
  EXPECT_FALSE(watch.Look(stream));
  absl::SleepFor(kTimeout / 2);
  watch.NoteBlocked(stream);
  const absl::Time blocked = SteadyNow();
  LookUntilGivenUp(watch, stream);
  EXPECT_GE(SteadyNow(), blocked + kTimeout);
  EXPECT_FALSE(watch.unacknowledged());
}

TEST(StallWatch, WithoutABlockedOutputWhatIsOnItsWayIsTheReason) {
  const StuckStream stream;
  StallWatch watch(kTimeout);
  EXPECT_EQ(watch.due(), absl::InfiniteFuture());
  const absl::Time sent = SteadyNow();
  watch.NoteSent(stream, sent);
  LookUntilGivenUp(watch, stream);
  EXPECT_GE(SteadyNow(), sent + kTimeout);
  EXPECT_TRUE(watch.unacknowledged());
}

}  // namespace
}  // namespace nbdinetd
