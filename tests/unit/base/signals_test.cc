#include "base/signals.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <optional>
#include <thread>

namespace nbdinetd {
namespace {

bool IsReadable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

class SignalsTest : public testing::TestWithParam<int> {
 protected:
  // Takes back what a test has left pending, before the signals can act again.
  ~SignalsTest() override {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    const timespec at_once = {};
    while (sigtimedwait(&signals, nullptr, &at_once) > 0) {
    }
    pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  }
};

TEST_P(SignalsTest, IsReadableOnceTheSignalHasComeAndStaysSo) {
  absl::StatusOr<Signals> shutdown = Signals::Create({SIGTERM, SIGINT});
  ASSERT_TRUE(shutdown.ok()) << shutdown.status();
  EXPECT_FALSE(IsReadable(shutdown->fd()));
  // Its default action would end the test.
  kill(getpid(), GetParam());
  EXPECT_TRUE(IsReadable(shutdown->fd()));
  EXPECT_TRUE(IsReadable(shutdown->fd()));
}

TEST_P(SignalsTest, DoesNotInterruptThreadsThatWereStartedLater) {
  absl::StatusOr<Signals> shutdown = Signals::Create({SIGTERM, SIGINT});
  ASSERT_TRUE(shutdown.ok()) << shutdown.status();
  bool blocked = false;
  std::thread([&] {
    sigset_t signals;
    pthread_sigmask(SIG_BLOCK, nullptr, &signals);
    blocked = sigismember(&signals, GetParam()) == 1;
  }).join();
  EXPECT_TRUE(blocked);
}

INSTANTIATE_TEST_SUITE_P(Each, SignalsTest, testing::Values(SIGTERM, SIGINT));

TEST_P(SignalsTest, AreTakenOnceEach) {
  absl::StatusOr<Signals> signals = Signals::Create({SIGTERM, SIGINT});
  ASSERT_TRUE(signals.ok()) << signals.status();
  EXPECT_FALSE(signals->Take().has_value());
  kill(getpid(), GetParam());
  const std::optional<Signals::Signal> taken = signals->Take();
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(taken->number, GetParam());
  EXPECT_EQ(taken->value, 0u);
  EXPECT_FALSE(signals->Take().has_value());
  EXPECT_FALSE(IsReadable(signals->fd()));
}

TEST(Signals, IsCloseOnExec) {
  absl::StatusOr<Signals> shutdown = Signals::Create({SIGTERM, SIGINT});
  ASSERT_TRUE(shutdown.ok()) << shutdown.status();
  EXPECT_NE(fcntl(shutdown->fd(), F_GETFD) & FD_CLOEXEC, 0);
}

}  // namespace
}  // namespace nbdinetd
