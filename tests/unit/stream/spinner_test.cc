#include "stream/spinner.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace nbdinetd {
namespace {

// Whether another try, which finds nothing, is made at all.
bool Spins(Spinner& spinner) {
  int tries = 0;
  spinner.Try([&] {
    ++tries;
    return false;
  });
  return tries > 0;
}

// A spinner whose peer has been quick of late.
void MakeQuick(Spinner& spinner) {
  for (int i = 0; i < 50; ++i) {
    // Nothing to wait for: poll(2) had it at once.
    if (!spinner.Try([] { return true; })) spinner.NoteSlept();
  }
}

TEST(Spinner, DoesNotSpinBeforeThePeerHasBeenQuick) {
  Spinner spinner;
  EXPECT_FALSE(Spins(spinner));
}

TEST(Spinner, SpinsWhileThePeerIsQuickAndStopsWhenItIsNot) {
  Spinner spinner;
  // A busy machine may keep it from spinning, now and then.
  bool spun = false;
  for (int i = 0; i < 100 && !spun; ++i) {
    MakeQuick(spinner);
    spun = Spins(spinner);
  }
  EXPECT_TRUE(spun);
  // Some long waits, and it is over with that.
  for (int i = 0; i < 10; ++i) {
    spinner.Try([] { return false; });
    usleep(1000);
    spinner.NoteSlept();
  }
  EXPECT_FALSE(Spins(spinner));
}

// Another thread that wants the processor gets it, and is left alone for a
// while.
TEST(Spinner, DoesNotSpinWhileSomebodyElseWantsTheProcessor) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const int processor = sched_getcpu();
  ASSERT_GE(processor, 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(processor), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  std::atomic<bool> stop = false;
  // It inherits the one processor.
  std::thread busy([&] {
    while (!stop) {
    }
  });
  Spinner spinner;
  MakeQuick(spinner);
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    if (!Spins(spinner)) ++refused;
  }
  stop = true;
  busy.join();
  sched_setaffinity(0, sizeof(before), &before);
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace nbdinetd
