#include "export/calls_under_way.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <cerrno>
#include <thread>
#include <vector>

#include "support/fake_export.h"

namespace nbdinetd {
namespace {

using Call = CallsUnderWay::Call;

// Whatever waits here does so for ever, if it is wrong: then the program is
// ended.
class HangGuard : public testing::Test {
 protected:
  HangGuard() { alarm(60); }
  ~HangGuard() override { alarm(0); }
};
using CallsUnderWayTest = HangGuard;
using DurableCallsTest = HangGuard;

TEST_F(CallsUnderWayTest, OneAloneWaitsForNobody) {
  CallsUnderWay calls;
  for (int i = 0; i < 3; ++i) {
    Call call;
    calls.Begin(call);
    calls.End(call);
    calls.WaitForOverlapping(call);
  }
}

TEST_F(CallsUnderWayTest, NobodyWaitsForACallThatBeganAfterItsEnd) {
  CallsUnderWay calls;
  Call call, overlapping, later;
  calls.Begin(overlapping);
  calls.Begin(call);
  calls.End(call);
  calls.Begin(later);
  calls.End(overlapping);
  calls.WaitForOverlapping(call);
  calls.End(later);
}

// Whether it began before or after, and whichever ends first of several.
TEST_F(CallsUnderWayTest, ACallWaitsForAllThatOverlappedWithIt) {
  for (const size_t first_to_end : {0, 1, 2}) {
    CallsUnderWay calls;
    Call call, others[3];
    calls.Begin(others[0]);
    calls.Begin(others[1]);
    calls.Begin(call);
    calls.Begin(others[2]);
    calls.End(call);
    std::atomic<int> ended = 0;
    int ended_when_done = 0;
    std::thread waiter([&] {
      calls.WaitForOverlapping(call);
      ended_when_done = ended;
    });
    for (size_t i = 0; i < 3; ++i) {
      std::this_thread::yield();
      ++ended;
      calls.End(others[(first_to_end + i) % 3]);
    }
    waiter.join();
    EXPECT_EQ(ended_when_done, 3) << first_to_end;
  }
}

class DurableExport : public nbdtest::FakeExport {
 public:
  DurableExport() : FakeExport({.size_bytes = uint64_t{1} << 20}) {}
  using StoredExport::DurableCall;
};

// Many writes with FUA are under way at once, and stay so: each call here ends
// only when the threads are all in one.
TEST_F(DurableCallsTest, GoOnSideBySide) {
  constexpr int kThreads = 8;
  DurableExport target;
  std::barrier all(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        const auto call = [&] {
          all.arrive_and_wait();
          return 0;
        };
        EXPECT_EQ(target.DurableCall(call, [](int) { return true; }), 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The kernel reports a lost write to one of two calls that are under way, and
// the other one may end first, with success: it is told all the same.
TEST_F(DurableCallsTest, ASuccessWaitsForTheCallThatGetsTheReport) {
  for (const bool reported_first : {false, true}) {
    DurableExport target;
    std::barrier both(2);
    std::atomic<int> results = 0;
    const auto run = [&](int error) {
      const bool waits = error != 0 && !reported_first;
      const auto call = [&] {
        both.arrive_and_wait();
        // Time enough for the other one to come back with what it believes: a
        // wrong answer shows, and a right one, which doesn't come before this
        // ends, is no matter of time.
        for (int i = 0; waits && i < 100 && results == 0; ++i) usleep(1000);
        return error;
      };
      const int result = target.DurableCall(call, [](int) { return true; });
      ++results;
      return result;
    };
    int loser = 0, winner = 0;
    std::thread other([&] { loser = run(EIO); });
    winner = run(0);
    other.join();
    EXPECT_EQ(loser, EIO);
    EXPECT_EQ(winner, EIO) << reported_first;
    EXPECT_EQ(target.Flush(), EIO);
  }
}

// A call that begins when all is over has its own answer.
TEST_F(DurableCallsTest, ACallThatIsAloneDoesNotWait) {
  DurableExport target;
  const auto succeed = [] { return 0; };
  const auto is_loss = [](int) { return true; };
  EXPECT_EQ(target.DurableCall(succeed, is_loss), 0);
  EXPECT_EQ(
      target.DurableCall([] { return ENOSPC; }, [](int) { return false; }),
      ENOSPC);
  EXPECT_EQ(target.DurableCall(succeed, is_loss), 0);
}

}  // namespace
}  // namespace nbdinetd
