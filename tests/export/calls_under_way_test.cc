#include "export/calls_under_way.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <thread>
#include <vector>

#include "support/fake_export.h"

namespace nbdinetd {
namespace {

using Call = CallsUnderWay::Call;

// Whatever waits here does so for ever, if it is wrong: then the program is ended.
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
  DurableExport() : FakeExport({uint64_t{1} << 20, 4096, false, false}) {}
  using Export::DurableCall;
};

// Many writes with FUA are under way at once, and stay so: each call here ends only when the
// threads are all in one.
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

}  // namespace
}  // namespace nbdinetd
