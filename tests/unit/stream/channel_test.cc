#include "stream/channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/steady_clock.h"
#include "base/unique_fd.h"
#include "stream/stream.h"
#include "support/memory_stream.h"

namespace nbdinetd {
namespace {

using nbdtest::Event;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;

constexpr absl::Time kForever = absl::InfiniteFuture();
constexpr absl::Time kAtOnce = absl::InfinitePast();

constexpr Channel::Events kInput = {.input = true};
constexpr Channel::Events kOther = {.other = true};
constexpr Channel::Events kShutdown = {.shutdown = true};
constexpr Channel::Events kTimeout = {.timeout = true};

// Bytes in which each position can be told from its neighbours.
std::string Bytes(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(i * 31 + i / 256);
  return bytes;
}

class ChannelTest : public testing::Test {
 protected:
  explicit ChannelTest(absl::Duration stall_timeout = absl::InfiniteDuration())
      : channel_(std::make_unique<MemoryStream>(peer_), shutdown_.fd(),
                 stall_timeout) {}

  // Takes in all that the peer has sent, as far as there is room.
  void ReceiveAll() {
    while (peer_.unread() > 0 && channel_.input().size() < kInputBytes) {
      ASSERT_EQ(channel_.Receive(), Channel::Receipt::kData);
    }
  }

  MemoryPeer peer_;
  Event shutdown_;
  Event workers_;
  Channel channel_;
};

// -- Waiting

TEST_F(ChannelTest, WakesForInput) {
  peer_.Send("x");
  EXPECT_EQ(channel_.Wait({}), kInput);
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}), kInput);
}

TEST_F(ChannelTest, TheEndOfTheStreamIsInputToo) {
  peer_.Close();
  EXPECT_EQ(channel_.Wait({}), kInput);
}

TEST_F(ChannelTest, WakesForTheWorkers) {
  workers_.Set();
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}), kOther);
  EXPECT_EQ(channel_.Wait({.input = false, .other_fd = workers_.fd()}), kOther);
}

TEST_F(ChannelTest, LeavesInputAloneThatIsNotWanted) {
  peer_.Send("x");
  EXPECT_EQ(channel_.Wait({.input = false, .deadline = kAtOnce}), kTimeout);
  workers_.Set();
  EXPECT_EQ(channel_.Wait({.input = false, .other_fd = workers_.fd()}), kOther);
  EXPECT_EQ(peer_.unread(), 1u);
}

TEST_F(ChannelTest, WakesAtTheDeadline) {
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(20);
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd(), .deadline = deadline}),
            kTimeout);
  EXPECT_GE(SteadyNow(), deadline);
}

TEST_F(ChannelTest, InputDoesNotHideThatTheHandshakeIsOver) {
  peer_.Send("x");
  channel_.BeginHandshake(SteadyNow());
  EXPECT_TRUE(channel_.Wait({}).timeout);
  channel_.EndHandshake();
  EXPECT_EQ(channel_.Wait({}), kInput);
}

TEST_F(ChannelTest, ADeadlineThatHasPassedDoesNotHideInput) {
  peer_.Send("x");
  EXPECT_EQ(channel_.Wait({.deadline = kAtOnce}), kInput);
}

TEST_F(ChannelTest, AShutdownIsAStateFromWhenItIsNoticed) {
  EXPECT_FALSE(channel_.shutdown_requested());
  EXPECT_EQ(channel_.shutdown_since(), kForever);
  const absl::Time before = SteadyNow();
  shutdown_.Set();
  EXPECT_EQ(channel_.Wait({}), kShutdown);
  EXPECT_TRUE(channel_.shutdown_requested());
  const absl::Time since = channel_.shutdown_since();
  EXPECT_GE(since, before);
  EXPECT_LE(since, SteadyNow());
  // The descriptor stays readable, and must not wake again and again.
  EXPECT_EQ(channel_.Wait({.deadline = kAtOnce}), kTimeout);
  peer_.Send("x");
  EXPECT_EQ(channel_.Wait({}), kInput);
  EXPECT_EQ(channel_.shutdown_since(), since);
}

TEST_F(ChannelTest, TellsOfAllThatHasHappened) {
  peer_.Send("x");
  shutdown_.Set();
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}),
            (Channel::Events{.input = true, .shutdown = true}));
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}), kInput);
  workers_.Set();
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}),
            (Channel::Events{.input = true, .other = true}));
}

TEST_F(ChannelTest, AQuickPeerDoesNotHideAShutdown) {
  const auto wait = [&] {
    peer_.Send("x");
    const Channel::Events events = channel_.Wait(
        {.other_fd = workers_.fd(), .patience = Channel::Patience::kPoll});
    if (events.input) ReceiveAll();
    return events;
  };
  for (int i = 0; i < 50; ++i) ASSERT_EQ(wait(), kInput);
  shutdown_.Set();
  for (int i = 0; i < 1000 && !channel_.shutdown_requested(); ++i) wait();
  EXPECT_TRUE(channel_.shutdown_requested());
}

// The call that notices a shutdown makes no difference for what comes later.
class EachWayToNotice : public ChannelTest,
                        public testing::WithParamInterface<int> {
 protected:
  void Notice() {
    shutdown_.Set();
    switch (GetParam()) {
      case 0:
        EXPECT_EQ(channel_.Wait({}), kShutdown);
        break;
      case 1:
        workers_.Set();
        EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}),
                  (Channel::Events{.other = true, .shutdown = true}));
        workers_.Clear();
        break;
      case 2:
        peer_.FailWrites({-EAGAIN});
        EXPECT_TRUE(channel_.Send("abc"));
        break;
      default:
        channel_.LookForShutdown();
    }
    EXPECT_TRUE(channel_.shutdown_requested());
  }
};
INSTANTIATE_TEST_SUITE_P(Shutdown, EachWayToNotice, testing::Range(0, 4));

TEST_P(EachWayToNotice, EndsEveryLaterWaitOfAHandshake) {
  channel_.BeginHandshake(kForever);
  Notice();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(channel_.Wait({.other_fd = workers_.fd()}).timeout);
    EXPECT_GE(SteadyNow(), channel_.shutdown_since() + kShutdownGrace);
    // Whatever there is to receive.
    peer_.Send("x");
  }
}

TEST_P(EachWayToNotice, EndsAHandshakeThatBeginsLater) {
  Notice();
  channel_.BeginHandshake(kForever);
  EXPECT_EQ(channel_.Wait({}), kTimeout);
}

TEST_P(EachWayToNotice, EndsEveryLaterSendToAPeerThatDoesNotRead) {
  Notice();
  peer_.Stall();
  EXPECT_FALSE(channel_.Send("abc"));
  EXPECT_TRUE(channel_.send_timed_out());
}

TEST_F(ChannelTest, LooksForAShutdownWithoutWaiting) {
  channel_.LookForShutdown();
  EXPECT_FALSE(channel_.shutdown_requested());
  shutdown_.Set();
  channel_.LookForShutdown();
  const absl::Time since = channel_.shutdown_since();
  EXPECT_NE(since, kForever);
  channel_.LookForShutdown();
  EXPECT_EQ(channel_.shutdown_since(), since);
}

TEST_F(ChannelTest, FindsAShutdownThatAnotherWaitHasTaken) {
  bool is_taken = false;
  Channel channel(std::make_unique<MemoryStream>(peer_), shutdown_.fd(),
                  absl::InfiniteDuration(), nullptr, [&is_taken] {
                    return is_taken ? Shutdown::kNow : Shutdown::kNone;
                  });
  channel.LookForShutdown();
  EXPECT_FALSE(channel.shutdown_requested());
  is_taken = true;
  channel.LookForShutdown();
  EXPECT_TRUE(channel.shutdown_requested());
  const absl::Time since = channel.shutdown_since();
  channel.LookForShutdown();
  EXPECT_EQ(channel.shutdown_since(), since);
}

// -- Waiting for one of two things, while only the other can happen

TEST_F(ChannelTest, WithoutRoomForInputDoesNotWakeForIt) {
  peer_.Send(Bytes(kInputBytes + 1));
  ASSERT_EQ(channel_.Receive(), Channel::Receipt::kData);
  ASSERT_EQ(channel_.input().size(), kInputBytes);
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd(), .deadline = kAtOnce}),
            kTimeout);
  workers_.Set();
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}), kOther);
  workers_.Clear();
  channel_.Consume(1);
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}), kInput);
}

TEST_F(ChannelTest, WaitsForOutputAloneWhereThatHasToComeFirst) {
  peer_.Send("x");
  peer_.OweOutput(true);
  EXPECT_EQ(channel_.Wait({.deadline = kAtOnce}), kInput);
  peer_.Stall();
  EXPECT_EQ(channel_.Wait({.deadline = kAtOnce}), kTimeout);
  EXPECT_FALSE(channel_.send_timed_out());
  // But for what is no peer's.
  workers_.Set();
  EXPECT_EQ(channel_.Wait({.other_fd = workers_.fd()}), kOther);
  shutdown_.Set();
  EXPECT_EQ(channel_.Wait({}), kShutdown);
  peer_.OweOutput(false);
  EXPECT_EQ(channel_.Wait({}), kInput);
}

constexpr absl::Duration kShort = absl::Milliseconds(20);

class StallTest : public ChannelTest {
 protected:
  StallTest() : ChannelTest(kShort) {}
};

TEST_F(StallTest, GivesUpOnAPeerThatTakesNoOutputThatHasToComeFirst) {
  peer_.Send("x");
  peer_.OweOutput(true);
  peer_.Stall();
  // However often it is interrupted.
  workers_.Set();
  const absl::Time start = SteadyNow();
  while (!channel_.Wait({.other_fd = workers_.fd()}).timeout) {
    EXPECT_FALSE(channel_.send_timed_out());
  }
  EXPECT_GE(SteadyNow(), start + kShort);
  EXPECT_TRUE(channel_.send_timed_out());
  EXPECT_FALSE(channel_.Send("abc"));
}

TEST_F(StallTest, APeerThatTakesALittleHasNotStalled) {
  peer_.OweOutput(true);
  peer_.Stall();
  peer_.CountUnread(10 * kStallLooks);  // one less at each look
  const absl::Time start = SteadyNow();
  EXPECT_EQ(channel_.Wait({}), kTimeout);
  EXPECT_TRUE(channel_.send_timed_out());
  EXPECT_GE(SteadyNow(), start + 10 * kShort);
}

TEST_F(StallTest, GivesUpOnAPeerWhoseMachineAcknowledgesNothing) {
  peer_.TellAcknowledged(/*on_its_way=*/true, 0);
  const absl::Time start = SteadyNow();
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({}), kTimeout);
  EXPECT_GE(SteadyNow(), start + kShort);
  EXPECT_TRUE(channel_.send_timed_out());
  EXPECT_TRUE(channel_.unacknowledged());
  EXPECT_FALSE(channel_.Send("abc"));
}

TEST_F(StallTest, NoticesThatNothingIsAcknowledgedHoweverOftenItIsInterrupted) {
  peer_.TellAcknowledged(/*on_its_way=*/true, 0);
  workers_.Set();
  EXPECT_TRUE(channel_.Send("abc"));
  while (channel_.Send("def") &&
         channel_.Wait({.input = false, .other_fd = workers_.fd()}) == kOther) {
  }
  EXPECT_TRUE(channel_.unacknowledged());
}

TEST_F(StallTest, APeerWhoseMachineAcknowledgesALittleHasNotStalled) {
  peer_.TellAcknowledged(/*on_its_way=*/true, 1);
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({.deadline = SteadyNow() + 10 * kShort}), kTimeout);
  EXPECT_FALSE(channel_.send_timed_out());
  EXPECT_TRUE(channel_.Send("abc"));
}

TEST_F(StallTest, ASilentPeerToWhichNothingIsOnItsWayHasNotStalled) {
  peer_.TellAcknowledged(/*on_its_way=*/false, 0);
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({.deadline = SteadyNow() + 5 * kShort}), kTimeout);
  EXPECT_FALSE(channel_.send_timed_out());
  // What is sent after that is looked at anew.
  peer_.TellAcknowledged(/*on_its_way=*/true, 0);
  EXPECT_EQ(channel_.Wait({.deadline = SteadyNow() + 5 * kShort}), kTimeout);
  EXPECT_FALSE(channel_.send_timed_out());
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({}), kTimeout);
  EXPECT_TRUE(channel_.unacknowledged());
}

TEST_F(ChannelTest, WithoutATimeNobodyStalls) {
  peer_.TellAcknowledged(/*on_its_way=*/true, 0);
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({.deadline = SteadyNow() + 5 * kShort}), kTimeout);
  EXPECT_FALSE(channel_.send_timed_out());
}

// Without it, the end of the input says nothing of the other direction.
TEST_F(ChannelTest, APeerThatIsGoneIsNoticedOnceWhileNothingIsReceived) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Channel channel(std::make_unique<SocketStream>(UniqueFd(ends[0])),
                  shutdown_.fd());
  const Channel::Interest interest = {.input = false, .deadline = kAtOnce};
  shutdown(ends[1], SHUT_WR);
  EXPECT_EQ(channel.Wait(interest), kTimeout);
  EXPECT_TRUE(channel.Send("abc"));
  close(ends[1]);
  workers_.Set();
  EXPECT_EQ(channel.Wait({.input = false, .other_fd = workers_.fd()}),
            (Channel::Events{.other = true, .gone = true}));
  EXPECT_EQ(channel.Wait(interest), kTimeout);
  EXPECT_FALSE(channel.Send("abc"));
}

TEST_F(StallTest, APeerThatIsGivenUpDoesNotEndLaterWaits) {
  peer_.TellAcknowledged(/*on_its_way=*/true, 0);
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({}), kTimeout);
  const absl::Time deadline = SteadyNow() + 5 * kShort;
  EXPECT_EQ(channel_.Wait({.input = false, .deadline = deadline}), kTimeout);
  EXPECT_GE(SteadyNow(), deadline);
  workers_.Set();
  EXPECT_TRUE(channel_.Wait({.input = false, .other_fd = workers_.fd()}).other);
}

TEST_F(StallTest, InAHandshakeNobodyStalls) {
  peer_.TellAcknowledged(/*on_its_way=*/true, 0);
  channel_.BeginHandshake(kForever);
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({.deadline = SteadyNow() + 5 * kShort}), kTimeout);
  EXPECT_FALSE(channel_.send_timed_out());
  channel_.EndHandshake();
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(channel_.Wait({}), kTimeout);
  EXPECT_TRUE(channel_.unacknowledged());
}

// -- Receiving

TEST_F(ChannelTest, APeerWhoseMachineDoesNotAnswerHasTimedOut) {
  for (const int error :
       {ETIMEDOUT, EHOSTUNREACH, EHOSTDOWN, ENETUNREACH, ENETDOWN, ENONET}) {
    MemoryPeer peer;
    Channel channel(std::make_unique<MemoryStream>(peer), shutdown_.fd());
    peer.BreakAfter(0, -error);
    EXPECT_FALSE(channel.Send("abc"));
    EXPECT_TRUE(channel.send_timed_out()) << error;
    EXPECT_TRUE(channel.vanished()) << error;
    peer.Fail(error);
    EXPECT_EQ(channel.Receive(), Channel::Receipt::kTimedOut) << error;
  }
}

TEST_F(ChannelTest, ReceivesWhatIsThereAtOnce) {
  peer_.Send("abc");
  peer_.Send("def");
  EXPECT_EQ(channel_.input(), "");
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_EQ(channel_.input(), "abcdef");
}

TEST_F(ChannelTest, SaysWhenThereIsNothing) {
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kNothing);
  EXPECT_EQ(channel_.input(), "");
}

TEST_F(ChannelTest, JoinsWhatComesInPieces) {
  peer_.LimitReads(1);
  peer_.Send("abc");
  for (const char* input : {"a", "ab", "abc"}) {
    EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
    EXPECT_EQ(channel_.input(), input);
  }
}

TEST_F(ChannelTest, TheEndComesBehindAllBytesAndLeavesThemThere) {
  peer_.Send("abc");
  peer_.Close();
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kEnd);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kEnd);
  EXPECT_EQ(channel_.input(), "abc");
}

TEST_F(ChannelTest, AnErrorIsAReset) {
  peer_.Send("abc");
  peer_.Reset();
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kReset);
  EXPECT_EQ(channel_.input(), "abc");
}

TEST_F(ChannelTest, ConsumesFromTheFront) {
  peer_.Send("abcdef");
  channel_.Receive();
  channel_.Consume(0);
  EXPECT_EQ(channel_.input(), "abcdef");
  channel_.Consume(2);
  EXPECT_EQ(channel_.input(), "cdef");
  channel_.Consume(4);
  EXPECT_EQ(channel_.input(), "");
}

TEST_F(ChannelTest, ReceivesNoMoreThanThereIsRoomFor) {
  const std::string bytes = Bytes(kInputBytes + 100);
  peer_.Send(bytes);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_EQ(channel_.input().size(), kInputBytes);
  EXPECT_EQ(peer_.unread(), 100u);
  channel_.Consume(kInputBytes);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_TRUE(channel_.input() == absl::string_view(bytes).substr(kInputBytes));
}

// A read of no bytes returns 0, which is not what it returns at the end of the
// stream.
TEST_F(ChannelTest, AFullBufferIsNotTheEndOfTheStream) {
  const std::string bytes = Bytes(kInputBytes + 100);
  peer_.Send(bytes);
  ASSERT_EQ(channel_.Receive(), Channel::Receipt::kData);
  ASSERT_EQ(channel_.input().size(), kInputBytes);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kNothing);
  channel_.Consume(1);
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_TRUE(channel_.input() ==
              absl::string_view(bytes).substr(1, kInputBytes));
}

TEST_F(ChannelTest, MakesRoomWithoutLosingAByte) {
  const std::string bytes = Bytes(kInputBytes + 1000);
  peer_.Send(bytes);
  ReceiveAll();
  ASSERT_EQ(channel_.input().size(), kInputBytes);
  channel_.Consume(1000);
  channel_.MakeRoomFor(kInputBytes);
  EXPECT_TRUE(channel_.input() ==
              absl::string_view(bytes).substr(1000, kInputBytes - 1000));
  ReceiveAll();
  EXPECT_TRUE(channel_.input() == absl::string_view(bytes).substr(1000));
}

TEST_F(ChannelTest, AMessageOfTheBuffersSizeFitsWhereverItBegins) {
  for (const size_t before :
       {size_t{0}, size_t{1}, size_t{4096}, kInputBytes - 1}) {
    const std::string bytes = Bytes(before + kInputBytes);
    peer_.Send(bytes);
    while (channel_.input().size() < before) channel_.Receive();
    channel_.Consume(before);
    channel_.MakeRoomFor(kInputBytes);
    while (channel_.input().size() < kInputBytes) {
      ASSERT_EQ(channel_.Receive(), Channel::Receipt::kData) << before;
    }
    EXPECT_TRUE(channel_.input() == absl::string_view(bytes).substr(before))
        << before;
    channel_.Consume(kInputBytes);
  }
}

TEST_F(ChannelTest, AStreamOfManyBuffersComesThroughInOrder) {
  const std::string bytes = Bytes(3 * kInputBytes + 12345);
  peer_.LimitReads(65521);
  peer_.Send(bytes);
  std::string received;
  // Always something left over, so that the input wanders through the buffer.
  while (received.size() < bytes.size()) {
    if (peer_.unread() > 0) {
      ASSERT_EQ(channel_.Receive(), Channel::Receipt::kData);
    }
    const size_t part = peer_.unread() > 0 ? channel_.input().size() * 9 / 10
                                           : channel_.input().size();
    received.append(channel_.input().data(), part);
    channel_.Consume(part);
  }
  EXPECT_TRUE(received == bytes);
}

// -- Sending

TEST_F(ChannelTest, SendsPiecesInOrderInOneWrite) {
  std::string a = "abc", b = "", c = "defg";
  std::vector<iovec> pieces = {
      {a.data(), a.size()}, {b.data(), b.size()}, {c.data(), c.size()}};
  EXPECT_TRUE(channel_.Send(absl::MakeSpan(pieces)));
  EXPECT_EQ(peer_.Receive(), "abcdefg");
  EXPECT_EQ(peer_.writes(), 1u);
}

TEST_F(ChannelTest, SendingNothingIsNoWrite) {
  EXPECT_TRUE(channel_.Send(""));
  EXPECT_TRUE(channel_.Send(absl::Span<iovec>()));
  EXPECT_EQ(peer_.writes(), 0u);
}

TEST_F(ChannelTest, GoesOnAfterShortWrites) {
  for (size_t limit = 1; limit <= 8; ++limit) {
    peer_.LimitWrites(limit);
    std::string a = "abc", b = "", c = "de", d = "fgh";
    std::vector<iovec> pieces = {{a.data(), a.size()},
                                 {b.data(), b.size()},
                                 {c.data(), c.size()},
                                 {d.data(), d.size()}};
    EXPECT_TRUE(channel_.Send(absl::MakeSpan(pieces))) << limit;
    EXPECT_EQ(peer_.Receive(), "abcdefgh") << limit;
  }
}

TEST_F(ChannelTest, WaitsForAPeerWhoseBufferIsFull) {
  peer_.FailWrites({-EAGAIN, -EAGAIN, -EAGAIN});
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(peer_.Receive(), "abc");
}

constexpr size_t kMuchRoom = 128 << 10;

TEST_F(ChannelTest, GoesOnWithMuchRoomBeforePollShowsIt) {
  peer_.ShowRoomLate(kMuchRoom);
  peer_.FailWrites({-EAGAIN});
  channel_.BeginHandshake(SteadyNow() + absl::Seconds(30));
  EXPECT_TRUE(channel_.Send("abc"));
  EXPECT_EQ(peer_.Receive(), "abc");
}

TEST_F(ChannelTest, WaitsForPollWithLittleRoom) {
  peer_.ShowRoomLate(1);
  peer_.FailWrites({-EAGAIN});
  channel_.BeginHandshake(SteadyNow() + 5 * kShort);
  EXPECT_FALSE(channel_.Send("abc"));
  EXPECT_TRUE(channel_.send_timed_out());
}

TEST_F(StallTest, LooksForRoomDoNotProlongAStall) {
  peer_.ShowRoomLate(0);
  peer_.FailWrites({-EAGAIN});
  const absl::Time start = SteadyNow();
  EXPECT_FALSE(channel_.Send("abc"));
  EXPECT_GE(SteadyNow(), start + kShort);
  EXPECT_TRUE(channel_.send_timed_out());
}

TEST_F(ChannelTest, APeerThatIsGoneStaysGone) {
  for (const int error : {EPIPE, ECONNRESET, ETIMEDOUT}) {
    MemoryPeer peer;
    Channel channel(std::make_unique<MemoryStream>(peer), -1);
    peer.FailWrites({-error});
    EXPECT_FALSE(channel.Send("abc")) << error;
    // The next write would succeed, and send what makes no sense without the
    // first.
    EXPECT_FALSE(channel.Send("def")) << error;
    EXPECT_EQ(peer.Receive(), "") << error;
    EXPECT_EQ(peer.writes(), 1u) << error;
  }
}

TEST_F(ChannelTest, APeerThatGoesInTheMiddleOfASendFailsIt) {
  peer_.BreakAfter(4, -EPIPE);
  EXPECT_FALSE(channel_.Send("abcdef"));
  EXPECT_EQ(peer_.Receive(), "abcd");
}

TEST_F(ChannelTest, InputCanStillBeReadWhenSendingHasFailed) {
  peer_.Send("abc");
  peer_.FailWrites({-EPIPE});
  EXPECT_FALSE(channel_.Send("x"));
  EXPECT_EQ(channel_.Receive(), Channel::Receipt::kData);
  EXPECT_EQ(channel_.input(), "abc");
}

}  // namespace
}  // namespace nbdinetd
