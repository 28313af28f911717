// The filters as such: that there is one for each set of facts, that they hold,
// and what a kernel that refuses one looks like. What they keep an intruder
// from is in sandbox_test.py.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/behind_any_file.h"
#include "sandbox/filters.h"
#include "sandbox/privileges.h"
#include "unit/sandbox/child.h"

namespace nbdinetd {
namespace {

SandboxFacts FactsOf(unsigned bits) {
  SandboxFacts facts;
  facts.tls = (bits & kIfTls) != 0;
  facts.writable = (bits & kIfWritable) != 0;
  facts.block_devices = (bits & kIfBlockDevices) != 0;
  facts.exclusive = (bits & kIfExclusive) != 0;
  facts.takeover = (bits & kIfTakeover) != 0;
  facts.directory_fd = (bits & kIfDirectory) != 0 ? 5 : -1;
  return facts;
}

class LoadFilterTest : public testing::Test {
 protected:
  void SetUp() override {
    if (NegotiationFilter({}).absent())
      GTEST_SKIP() << "built without libseccomp";
#ifdef NBDINETD_NO_SANDBOX_BY_DEFAULT
    GTEST_SKIP() << "sanitizers and gcov need more system calls";
#endif
  }

  // Calls `function` behind the filters, and both, or only the first, in place.
  template <typename Function>
  static int Behind(const SandboxFacts& facts, bool both, Function function) {
    return nbdtest::InChild([&] {
      if (ForbidNewPrivileges() != 0) return 201;
      if (LoadFilter(NegotiationFilter(facts), facts) != 0) return 202;
      if (both && LoadFilter(TransmissionFilter(facts), facts) != 0) return 203;
      return static_cast<int>(function());
    });
  }
};

TEST_F(LoadFilterTest, EachSetOfFactsHasItsFilters) {
  for (unsigned bits = 0; bits < kFactSets; ++bits) {
    const SandboxFacts facts = FactsOf(bits);
    EXPECT_LE(NegotiationFilter(facts).count, kMaxFilterLength);
    EXPECT_LE(TransmissionFilter(facts).count, kMaxFilterLength);
    EXPECT_EQ(Behind(facts, /*both=*/true, [] { return 7; }), 7) << bits;
  }
}

TEST_F(LoadFilterTest, WhatIsNotInTheTableEndsTheProcess) {
  const auto ask = [] { return syscall(SYS_getppid) > 0 ? 0 : 1; };
  EXPECT_EQ(Behind({}, false, ask), -SIGSYS);
  EXPECT_EQ(Behind({}, true, ask), -SIGSYS);
  EXPECT_EQ(Behind({}, false, [] { return syscall(100000); }), -SIGSYS);
}

// Not only the thread.
TEST_F(LoadFilterTest, AThreadThatIsEndedTakesTheProcessAlong) {
  EXPECT_EQ(Behind({}, true,
                   [] {
                     std::thread([] { syscall(SYS_getppid); }).join();
                     return 0;
                   }),
            -SIGSYS);
}

TEST_F(LoadFilterTest, ThreadsCanBeStarted) {
  EXPECT_EQ(Behind({}, true,
                   [] {
                     int sum = 0;
                     std::thread([&] { sum += 1; }).join();
                     std::thread([&] { sum += 2; }).join();
                     return sum;
                   }),
            3);
}

// In a thread, so that malloc gets an arena of its own, and asks the system how
// many it may have.
TEST_F(LoadFilterTest, MemoryCanBeHadByAnyThread) {
  EXPECT_EQ(Behind({}, true,
                   [] {
                     int good = 0;
                     std::thread([&] {
                       for (const size_t size : {100u, 100000u, 10000000u}) {
                         char* memory = static_cast<char*>(malloc(size));
                         if (memory == nullptr) return;
                         std::fill_n(memory, size, 'x');
                         memory = static_cast<char*>(realloc(memory, 2 * size));
                         if (memory == nullptr) return;
                         free(memory);
                         ++good;
                       }
                     }).join();
                     return good;
                   }),
            3);
}

TEST_F(LoadFilterTest, AbortIsStillAnAbort) {
  EXPECT_EQ(Behind({}, true, []() -> int { abort(); }), -SIGABRT);
}

// The process's own id, which isn't known when the filter is compiled, is in
// it.
TEST_F(LoadFilterTest, NobodyElseCanBeAborted) {
  const pid_t parent = getpid();
  EXPECT_EQ(
      Behind({}, true,
             [&] { return syscall(SYS_tgkill, parent, parent, SIGABRT); }),
      -SIGSYS);
}

TEST_F(LoadFilterTest, OnlyTheDirectorysDescriptorOpensFiles) {
  const int directory = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  ASSERT_GE(directory, 0);
  SandboxFacts facts;
  facts.directory_fd = directory;
  struct {
    uint64_t flags, mode, resolve;
  } how = {O_PATH, 0, 0};
  const auto open_at = [&](int fd) {
    return syscall(SYS_openat2, fd, ".", &how, sizeof(how)) >= 0 ? 0 : 1;
  };
  EXPECT_EQ(Behind(facts, false, [&] { return open_at(directory); }), 0);
  EXPECT_EQ(Behind(facts, false, [&] { return open_at(directory + 1); }),
            -SIGSYS);
  EXPECT_EQ(Behind(facts, false, [&] { return open_at(AT_FDCWD); }), -SIGSYS);
  EXPECT_EQ(Behind(facts, true, [&] { return open_at(directory); }), -SIGSYS);
  close(directory);
}

// A shared mapping could later be made writable, and with it a file that is
// handed over for writing and served read-only.
TEST_F(LoadFilterTest, AFileIsMappedPrivatelyAndWithoutAccessIfAtAll) {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(file, 0);
  SandboxFacts facts;
  facts.directory_fd = 5;
  const auto map = [&](int protection, int flags, uint64_t offset = 0) {
    return mmap(nullptr, 4096, protection, flags, file,
                static_cast<off_t>(offset)) != MAP_FAILED
               ? 0
               : errno;
  };
  const auto quietly = [&] { return map(PROT_NONE, MAP_PRIVATE); };
  EXPECT_EQ(Behind(facts, false, quietly), 0);
  EXPECT_EQ(Behind(facts, true, quietly), -SIGSYS);
  EXPECT_EQ(Behind({}, false, quietly), -SIGSYS);
  EXPECT_EQ(Behind(facts, false, [&] { return map(PROT_NONE, MAP_SHARED); }),
            -SIGSYS);
  EXPECT_EQ(Behind(facts, false, [&] { return map(PROT_READ, MAP_PRIVATE); }),
            -SIGSYS);
  // What no file has can't be written.
  const auto behind = [&](uint64_t offset) {
    return [&, offset] { return map(PROT_NONE, MAP_SHARED, offset); };
  };
  EXPECT_GE(Behind(facts, false, behind(kBehindAnyFile)), 0);
  EXPECT_EQ(Behind(facts, true, behind(kBehindAnyFile)), -SIGSYS);
  for (const uint64_t other :
       {kBehindAnyFile & 0xffff'ffff, kBehindAnyFile >> 32 << 32,
        kBehindAnyFile - (64 << 10)}) {
    EXPECT_EQ(Behind(facts, false, behind(other)), -SIGSYS);
  }
  close(file);
}

TEST_F(LoadFilterTest, NoFilterCanBeLoadedOnceTransmissionHasStarted) {
  EXPECT_EQ(
      Behind({}, true, [] { return LoadFilter(TransmissionFilter({}), {}); }),
      -SIGSYS);
}

TEST_F(LoadFilterTest, WithoutTheRightToItIsAnError) {
  if (geteuid() != 0)
    GTEST_SKIP() << "needs root, to become somebody without rights";
  EXPECT_EQ(nbdtest::InChild([] {
              if (setresuid(64322, 64322, 64322) != 0) return 1;
              return LoadFilter(NegotiationFilter({}), {});
            }),
            EACCES);
}

TEST(AbsentFilterTest, IsToldFromOneThatFails) {
  const Filter absent = {nullptr, 0};
  EXPECT_TRUE(absent.absent());
  const sock_filter allow = {};
  const Filter present = {&allow, 1};
  EXPECT_FALSE(present.absent());
}

}  // namespace
}  // namespace nbdinetd
