// The lock itself: who excludes whom, and for how long. What becomes of clients
// is in exclusive_test.py.
#include "export/exclusive.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "export/open.h"
#include "support/session.h"
#include "unit/sandbox/child.h"

namespace nbdinetd {
namespace {

using nbdtest::InChild;

class ExclusiveLockTest : public testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/nbdinetd-exclusive-XXXXXX";
    const UniqueFd fd(mkstemp(path));
    ASSERT_TRUE(fd.valid());
    path_ = path;
    ASSERT_EQ(ftruncate(fd.get(), 1 << 20), 0);
  }
  void TearDown() override { unlink(path_.c_str()); }

  std::unique_ptr<Export> Open(bool read_only) {
    std::string reason;
    auto opened = OpenExport(path_, {.read_only = read_only}, &reason);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }

  static bool Try(const Export& target) {
    const absl::StatusOr<bool> locked = ExclusiveLock(target).Try();
    EXPECT_TRUE(locked.ok()) << locked.status();
    return locked.value_or(false);
  }

  std::string path_;
};

TEST_F(ExclusiveLockTest, ExcludesEverybodyUntilTheExportIsClosed) {
  for (const bool first_reads : {false, true}) {
    for (const bool second_reads : {false, true}) {
      auto first = Open(first_reads);
      const auto second = Open(second_reads);
      EXPECT_TRUE(Try(*first));
      EXPECT_FALSE(Try(*second)) << first_reads << second_reads;
      EXPECT_FALSE(Try(*second));
      first.reset();
      EXPECT_TRUE(Try(*second));
    }
  }
}

TEST_F(ExclusiveLockTest, AFailedAttemptLeavesNothingBehind) {
  for (const bool reads : {false, true}) {
    auto first = Open(reads);
    const auto second = Open(true), third = Open(reads);
    EXPECT_TRUE(Try(*first));
    EXPECT_FALSE(Try(*second));
    first.reset();
    EXPECT_TRUE(Try(*third));
  }
}

// A process whose lock as holder outlives the one as owner, until `end` can be
// read.
void BeSlowToLeave(const std::string& path, int locked, int end) {
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  ExclusiveLock lock(fd.get());
  struct flock owner = {};
  owner.l_type = F_UNLCK;
  owner.l_whence = SEEK_SET;
  owner.l_start = std::numeric_limits<off_t>::max() - 0xffff;
  owner.l_len = 1;
  if (!lock.Try().value_or(false) ||
      fcntl(fd.get(), F_OFD_SETLK, &owner) != 0) {
    _exit(1);
  }
  char byte = 0;
  if (write(locked, &byte, 1) != 1 || read(end, &byte, 1) != 1) _exit(1);
  _exit(0);
}

TEST_F(ExclusiveLockTest, IsKnownAsHolderAfterAnEarlierOneHasReallyLeft) {
  int locked[2], end[2];
  ASSERT_EQ(pipe(locked), 0);
  ASSERT_EQ(pipe(end), 0);
  const pid_t earlier = fork();
  ASSERT_GE(earlier, 0);
  if (earlier == 0) BeSlowToLeave(path_, locked[1], end[0]);
  char byte = 0;
  ASSERT_EQ(read(locked[0], &byte, 1), 1);
  const auto target = Open(/*read_only=*/false);
  std::thread ends([&] {
    usleep(10'000);
    EXPECT_EQ(write(end[1], "", 1), 1);
  });
  EXPECT_TRUE(Try(*target));
  ends.join();
  int status = 0;
  EXPECT_EQ(waitpid(earlier, &status, 0), earlier);
  EXPECT_EQ(status, 0);
  // Another process sees who holds it.
  const pid_t mine = getpid();
  const pid_t looker = fork();
  if (looker == 0) {
    const UniqueFd fd(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    _exit(ExclusiveLock::HolderOf(fd.get()) == mine ? 0 : 1);
  }
  EXPECT_EQ(waitpid(looker, &status, 0), looker);
  EXPECT_EQ(status, 0);
  for (const int fd : {locked[0], locked[1], end[0], end[1]}) close(fd);
}

TEST_F(ExclusiveLockTest, LocksNothingNearTheDataOrQemusBytes) {
  for (const bool reads : {false, true}) {
    const auto target = Open(reads);
    EXPECT_TRUE(Try(*target));
    const UniqueFd other(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_len = off_t{1} << 62;
    EXPECT_EQ(fcntl(other.get(), F_OFD_GETLK, &lock), 0);
    EXPECT_EQ(lock.l_type, F_UNLCK);
  }
}

TEST_F(ExclusiveLockTest, NoHolderIsToBeFoundWithoutOne) {
  const auto target = Open(false);
  ExclusiveLock lock(*target);
  EXPECT_TRUE(lock.AskHolder().ok());
  EXPECT_EQ(lock.holder_fd(), -1);
}

// Where other hosts have the file, the kernel reports the ids of their
// processes as if they were its own.
TEST_F(ExclusiveLockTest, AHolderOnAHostOfAnotherNameGetsNoSignal) {
  NEED_OR_SKIP(geteuid() == 0, "needs root, to name a host");
  const auto target = Open(false);
  ASSERT_TRUE(Try(*target));
  const auto asked_from = [&](bool other_host) {
    return InChild([&] {
      constexpr char kName[] = "another-host";
      if (other_host && (unshare(CLONE_NEWUTS) != 0 ||
                         sethostname(kName, sizeof kName - 1) != 0)) {
        return 1;
      }
      const auto same = Open(false);
      ExclusiveLock lock(*same);
      absl::Status asked = lock.AskHolder();
      // It isn't believed at once.
      for (int looks = 0; looks < 100 && asked.ok() && lock.holder_fd() < 0;
           ++looks) {
        asked = lock.AskHolder();
      }
      if (asked.ok()) return lock.holder_fd() < 0 ? 2 : 3;
      return absl::IsFailedPrecondition(asked) && lock.holder_fd() < 0 ? 4 : 5;
    });
  };
  // Nothing is done by default when the signal comes.
  EXPECT_EQ(asked_from(false), 3);
  EXPECT_EQ(asked_from(true), 4);
}

TEST_F(ExclusiveLockTest, WhatIsNoFileCannotBeLocked) {
  std::string reason;
  auto target = Open(false);
  EXPECT_TRUE(Try(*target));
  close(target->lock_fd());
  EXPECT_FALSE(ExclusiveLock(*target).Try().ok());
  // So that the export closes what it has.
  EXPECT_EQ(open(path_.c_str(), O_RDWR | O_CLOEXEC), target->lock_fd());
}

// The bytes are agreed on between versions of the program that run at the same
// time.
constexpr off_t kOwnerByte = 0x7fffffffffff0000;
constexpr off_t kCandidateByte = kOwnerByte + 2;

TEST_F(ExclusiveLockTest, AReaderGoesOnOnlyWhileItIsTheOnlyCandidate) {
  const UniqueFd other(open(path_.c_str(), O_RDWR | O_CLOEXEC));
  const auto set = [&](off_t byte, short type, int command) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    EXPECT_EQ(fcntl(other.get(), command, &lock), 0);
    return lock.l_type;
  };
  const auto reader = Open(true);
  set(kCandidateByte, F_RDLCK, F_OFD_SETLK);
  EXPECT_FALSE(Try(*reader));
  EXPECT_EQ(set(kOwnerByte, F_WRLCK, F_OFD_GETLK), F_UNLCK);
  set(kCandidateByte, F_UNLCK, F_OFD_SETLK);
  EXPECT_TRUE(Try(*reader));
  EXPECT_EQ(set(kOwnerByte, F_WRLCK, F_OFD_GETLK), F_RDLCK);
  // It is a candidate no more.
  EXPECT_EQ(set(kCandidateByte, F_WRLCK, F_OFD_GETLK), F_UNLCK);
  // A writer needs no candidacy.
  const auto writer = Open(false);
  EXPECT_FALSE(Try(*writer));
}

// Candidates that meet step back; never do two believe that they are alone.
TEST_F(ExclusiveLockTest, ReadersThatComeTogetherAreOneAtATime) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 50;
  std::atomic<int> inside = 0, successes = 0, faults = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, writes = i == 0] {
      for (int round = 0; round < kRounds; ++round) {
        const auto target = Open(!writes);
        if (!Try(*target)) continue;
        if (++inside != 1) ++faults;
        ++successes;
        std::this_thread::yield();
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(faults, 0);
  EXPECT_GT(successes, 0);
}

}  // namespace
}  // namespace nbdinetd
