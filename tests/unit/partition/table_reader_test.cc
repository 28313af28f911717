// The process that reads tables, with a file as small as one can be. What is in
// tables, and the process's sandbox, are in partitions_test.py.
#include "partition/table_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/limits.h"
#include "base/unique_fd.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

// A file of 64 KiB with an MBR that has one partition, of 2 sectors from 8 on.
UniqueFd Image() {
  UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
  const nbdtest::Bytes sector = nbdtest::MbrOf(8, 2);
  EXPECT_EQ(ftruncate(fd.get(), 64 << 10), 0);
  EXPECT_EQ(pwrite(fd.get(), sector.data(), sector.size(), 0), 512);
  return fd;
}

TEST(TableReaderTest, OneProcessReadsManyTablesAndEndsWithTheReader) {
  auto reader = TableReader::Start(SandboxMode::kOff);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const UniqueFd fd = Image();
  for (int i = 0; i < 100; ++i) {
    const auto table = (*reader)->Read(fd.get(), "image");
    if (absl::IsFailedPrecondition(table.status()))
      GTEST_SKIP() << table.status();
    ASSERT_TRUE(table.ok()) << table.status();
    ASSERT_EQ(table->partitions.size(), 1u);
    EXPECT_EQ(table->partitions[0].start_bytes, 4096u);
    EXPECT_EQ(table->partitions[0].size_bytes, 1024u);
  }
  reader->reset();
  int status = 0;
  ASSERT_GT(wait(&status), 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(TableReaderTest, WhatCannotBeReadIsAnError) {
  auto reader = TableReader::Start(SandboxMode::kOff);
  ASSERT_TRUE(reader.ok());
  const UniqueFd fd(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto table = (*reader)->Read(fd.get(), "/");
  EXPECT_TRUE(absl::IsNotFound(table.status()) ||
              absl::IsFailedPrecondition(table.status()))
      << table.status();
  // It goes on afterwards.
  const UniqueFd image = Image();
  EXPECT_FALSE(absl::IsInternal((*reader)->Read(image.get(), "x").status()));
  reader->reset();
  wait(nullptr);
}

// The process of a reader that has just been started.
pid_t ProcessOfReader() {
  std::ifstream children("/proc/self/task/" + std::to_string(gettid()) +
                         "/children");
  pid_t process = 0, next;
  while (children >> next) process = next;
  return process;
}

// A process that holds up another one, as a debugger does, or storage that
// doesn't answer: that one does nothing, and its parent doesn't see it end.
class Holder {
 public:
  explicit Holder(pid_t held) {
    int ready[2], release[2];
    EXPECT_EQ(pipe(ready), 0);
    EXPECT_EQ(pipe(release), 0);
    process_ = fork();
    if (process_ == 0) {
      close(release[1]);
      char answer =
          ptrace(PTRACE_SEIZE, held, nullptr, nullptr) == 0 &&
                  ptrace(PTRACE_INTERRUPT, held, nullptr, nullptr) == 0 &&
                  waitpid(held, nullptr, __WALL) == held
              ? 1
              : 0;
      if (write(ready[1], &answer, 1) != 1) _exit(1);
      // Until the other side is closed.
      _exit(read(release[0], &answer, 1) == 0 ? 0 : 1);
    }
    close(ready[1]);
    close(release[0]);
    release_.Reset(release[1]);
    char answer = 0;
    EXPECT_EQ(read(ready[0], &answer, 1), 1);
    close(ready[0]);
    holds_ = answer == 1;
  }
  ~Holder() { Release(); }

  bool holds() const { return holds_; }
  void Release() {
    if (!release_.valid()) return;
    release_.Reset();
    waitpid(process_, nullptr, 0);
  }

 private:
  pid_t process_;
  UniqueFd release_;
  bool holds_;
};

TEST(TableReaderTest, AProcessThatDoesNotEndHoldsUpNothing) {
  auto reader = TableReader::Start(SandboxMode::kOff);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const pid_t process = ProcessOfReader();
  Holder holder(process);
  if (!holder.holds()) {
    TableReader::End(*std::move(reader));
    GTEST_SKIP() << "this user may not trace processes";
  }
  TableReader::End(*std::move(reader));
  EXPECT_EQ(waitpid(process, nullptr, WNOHANG), 0) << "it wasn't held up";
  holder.Release();
  int status = 0;
  EXPECT_EQ(waitpid(process, &status, 0), process);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST(TableReaderTest, WhoIsToldToEndDoesNotWaitForATable) {
  const UniqueFd shutdown(eventfd(0, EFD_CLOEXEC));
  auto reader = TableReader::Start(SandboxMode::kOff, {shutdown.get()});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const UniqueFd fd = Image();
  EXPECT_FALSE(absl::IsCancelled((*reader)->Read(fd.get(), "x").status()));
  Holder holder(ProcessOfReader());
  if (holder.holds()) {
    EXPECT_EQ(eventfd_write(shutdown.get(), 1), 0);
    // Also one that comes later: a shutdown is a state.
    const absl::Status told = (*reader)->Read(fd.get(), "x").status();
    EXPECT_TRUE(absl::IsCancelled(told)) << told;
    EXPECT_FALSE((*reader)->Read(fd.get(), "x").ok());
    holder.Release();
  }
  TableReader::End(*std::move(reader));
  if (!holder.holds()) GTEST_SKIP() << "this user may not trace processes";
}

// The descriptor is also that of signals which end nothing.
TEST(TableReaderTest, OnlyAShutdownEndsTheWaitForATable) {
  const UniqueFd signals(eventfd(1, EFD_CLOEXEC));
  int taken = 0;
  const auto tell = [&signals, &taken] {
    eventfd_t value;
    EXPECT_EQ(eventfd_read(signals.get(), &value), 0);
    if (++taken == 2) return Shutdown::kDrain;
    EXPECT_EQ(eventfd_write(signals.get(), 1), 0);
    return Shutdown::kNone;
  };
  auto reader = TableReader::Start(SandboxMode::kOff, {signals.get(), tell});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const UniqueFd fd = Image();
  Holder holder(ProcessOfReader());
  if (holder.holds()) {
    const absl::Status told = (*reader)->Read(fd.get(), "x").status();
    EXPECT_TRUE(absl::IsCancelled(told)) << told;
    EXPECT_EQ(taken, 2);
    holder.Release();
  }
  TableReader::End(*std::move(reader));
  if (!holder.holds()) GTEST_SKIP() << "this user may not trace processes";
}

TEST(TableReaderTest, TheProcessHasLimitsWithoutASandboxToo) {
  auto reader = TableReader::Start(SandboxMode::kOff);
  ASSERT_TRUE(reader.ok()) << reader.status();
  // It answers after it has set them.
  const UniqueFd fd = Image();
  const absl::Status status = (*reader)->Read(fd.get(), "x").status();
  rlimit limit = {}, memory = {};
  EXPECT_EQ(prlimit(ProcessOfReader(), RLIMIT_CPU, nullptr, &limit), 0);
  EXPECT_EQ(prlimit(ProcessOfReader(), RLIMIT_AS, nullptr, &memory), 0);
  TableReader::End(*std::move(reader));
  if (absl::IsFailedPrecondition(status)) GTEST_SKIP() << status;
  EXPECT_EQ(limit.rlim_cur, kTableCpuSeconds);
  EXPECT_EQ(limit.rlim_max, kTableCpuSeconds);
  EXPECT_GE(memory.rlim_max, kTableMemoryBytes);
  EXPECT_NE(memory.rlim_max, RLIM_INFINITY);
}

}  // namespace
}  // namespace nbdinetd
