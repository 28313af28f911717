#include "transmission/workers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "support/fake_export.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

// Whatever is waited for here comes at once, or never.
constexpr std::chrono::seconds kHangGuard(60);

// A storage whose trims take until the test lets them pass. A trim of a range
// that begins at 0 is never held up.
class GatedExport : public nbdtest::FakeExport {
 public:
  GatedExport() : FakeExport({.size_bytes = uint64_t{1} << 40}) {}

  int Trim(uint64_t offset, uint64_t) override {
    std::unique_lock<std::mutex> lock(mutex_);
    ++started_;
    most_running_ = std::max(most_running_, ++running_);
    changed_.notify_all();
    if (offset != 0) {
      changed_.wait(lock, [&] { return open_ || passed_.count(offset) != 0; });
    }
    --running_;
    ++ended_;
    changed_.notify_all();
    return 0;
  }

  // Lets one trim pass, by its offset.
  void Pass(uint64_t offset) {
    const std::lock_guard<std::mutex> lock(mutex_);
    passed_.insert(offset);
    changed_.notify_all();
  }
  // Lets all pass, from now on.
  void Open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool WaitUntilRunning(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, kHangGuard,
                             [&] { return running_ >= count; });
  }
  size_t started() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return started_;
  }
  size_t ended() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ended_;
  }
  size_t most_running() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return most_running_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  std::set<uint64_t> passed_;
  size_t started_ = 0, ended_ = 0, running_ = 0, most_running_ = 0;
};

// Workers of a storage that opens at the end: an assertion that fails leaves
// the test with tasks held up, which the workers' destructor waits for.
class WorkersTest : public testing::Test {
 protected:
  ~WorkersTest() override { target.Open(); }

  GatedExport target;
  Workers workers{target};
};

// Outlives every task.
BufferPool pool;

std::unique_ptr<Task> TrimTask(uint64_t offset, uint64_t cookie = 0) {
  auto task = std::make_unique<Task>(pool);
  task->request.type = NBD_CMD_TRIM;
  task->request.offset = offset;
  task->request.length = 512;
  task->request.cookie = cookie;
  return task;
}

bool WaitReadable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1,
              static_cast<int>(kHangGuard / std::chrono::milliseconds(1))) == 1;
}

bool IsReadable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

// Takes results until there are `count`, waiting for each as the transmission
// does.
std::vector<std::unique_ptr<Task>> Take(Workers& workers, size_t count) {
  std::vector<std::unique_ptr<Task>> taken;
  while (taken.size() < count) {
    if (!WaitReadable(workers.event_fd())) {
      ADD_FAILURE() << "only " << taken.size() << " of " << count
                    << " tasks have finished";
      break;
    }
    for (std::unique_ptr<Task>& task : workers.TakeFinished())
      taken.push_back(std::move(task));
  }
  return taken;
}

TEST_F(WorkersTest, AreNoneBeforeTheFirstTask) {
  EXPECT_FALSE(IsReadable(workers.event_fd()));
  EXPECT_EQ(workers.pending(), 0u);
  EXPECT_FALSE(workers.full());
  EXPECT_TRUE(workers.TakeFinished().empty());
}

TEST_F(WorkersTest, GiveEveryTaskBackOnce) {
  constexpr uint64_t kTasks = 1000;
  target.Open();
  std::set<uint64_t> cookies;
  for (uint64_t i = 0; i < kTasks; ++i) workers.Start(TrimTask(4096 * i, i));
  EXPECT_EQ(workers.pending(), kTasks);
  for (const std::unique_ptr<Task>& task : Take(workers, kTasks)) {
    EXPECT_EQ(task->error, 0);
    EXPECT_TRUE(cookies.insert(task->request.cookie).second)
        << task->request.cookie;
  }
  EXPECT_EQ(cookies.size(), kTasks);
  EXPECT_EQ(target.ended(), kTasks);
  EXPECT_EQ(workers.pending(), 0u);
  EXPECT_TRUE(workers.TakeFinished().empty());
}

TEST_F(WorkersTest, DoNotHoldUpATaskBehindASlowOne) {
  workers.Start(TrimTask(4096, 1));
  ASSERT_TRUE(target.WaitUntilRunning(1));
  workers.Start(TrimTask(0, 2));
  const std::vector<std::unique_ptr<Task>> first = Take(workers, 1);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0]->request.cookie, 2u);
  EXPECT_EQ(workers.pending(), 1u);
  target.Pass(4096);
  const std::vector<std::unique_ptr<Task>> second = Take(workers, 1);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0]->request.cookie, 1u);
}

TEST_F(WorkersTest, GiveTasksBackInTheOrderInWhichTheyFinish) {
  const std::vector<uint64_t> order = {4096, 1024, 3072, 512, 2048};
  for (const uint64_t offset : {512, 1024, 2048, 3072, 4096})
    workers.Start(TrimTask(offset));
  ASSERT_TRUE(target.WaitUntilRunning(5));
  std::vector<uint64_t> finished;
  for (const uint64_t offset : order) {
    target.Pass(offset);
    for (const std::unique_ptr<Task>& task : Take(workers, 1)) {
      finished.push_back(task->request.offset);
    }
  }
  EXPECT_EQ(finished, order);
}

TEST_F(WorkersTest, RunNoMoreAtOnceThanThereMayBeThreads) {
  constexpr size_t kTasks = 3 * kMaxThreads;
  for (size_t i = 1; i <= kTasks; ++i) workers.Start(TrimTask(4096 * i));
  ASSERT_TRUE(target.WaitUntilRunning(Workers::kMostOfAKind));
  target.Open();
  Take(workers, kTasks);
  EXPECT_EQ(target.most_running(), Workers::kMostOfAKind);
}

// A thread that is idle is used again; else a client that flushes now and then
// would end up with all of them.
TEST_F(WorkersTest, UseAnIdleThreadAgain) {
  const auto threads_now = [] {
    size_t count = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/self/task")) {
      count += entry.path().empty() ? 0 : 1;
    }
    return count;
  };
  const size_t before = threads_now();
  for (size_t i = 0; i < 2 * kMaxThreads; ++i) {
    workers.Start(TrimTask(0));
    Take(workers, 1);
    // It is idle only when it waits again, which it mostly does by then.
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  EXPECT_LT(threads_now() - before, kMaxThreads);
}

TEST_F(WorkersTest, EventIsReadableWhileThereIsSomethingToTake) {
  for (const uint64_t offset : {512, 1024}) workers.Start(TrimTask(offset));
  ASSERT_TRUE(target.WaitUntilRunning(2));
  EXPECT_FALSE(IsReadable(workers.event_fd()));
  target.Pass(512);
  EXPECT_TRUE(WaitReadable(workers.event_fd()));
  EXPECT_TRUE(WaitReadable(workers.event_fd()));
  EXPECT_EQ(workers.TakeFinished().size(), 1u);
  EXPECT_FALSE(IsReadable(workers.event_fd()));
  EXPECT_TRUE(workers.TakeFinished().empty());
  target.Pass(1024);
  EXPECT_TRUE(WaitReadable(workers.event_fd()));
  EXPECT_EQ(workers.TakeFinished().size(), 1u);
}

TEST_F(WorkersTest, EventIsCloseOnExec) {
  workers.Start(TrimTask(0));
  EXPECT_NE(fcntl(workers.event_fd(), F_GETFD) & FD_CLOEXEC, 0);
  Take(workers, 1);
}

// -- Reads that have been begun (the gate holds up trims, and it's all the same
// to the workers)

std::unique_ptr<Task> BegunTask(uint64_t offset, uint64_t cookie = 0) {
  auto task = TrimTask(offset, cookie);
  task->begun = true;
  return task;
}

TEST_F(WorkersTest, OneThreadWaitsForAllReadsThatHaveBeenBegun) {
  constexpr uint64_t kReads = 20;
  for (uint64_t i = 1; i <= kReads; ++i) workers.Start(BegunTask(4096 * i, i));
  ASSERT_TRUE(target.WaitUntilRunning(1));
  target.Open();
  uint64_t cookie = 0;
  for (const std::unique_ptr<Task>& task : Take(workers, kReads)) {
    EXPECT_EQ(task->request.cookie, ++cookie);
  }
  EXPECT_EQ(target.most_running(), 1u);
  // And again, when that thread has gone to sleep, or is about to.
  for (uint64_t i = 0; i < 1000; ++i) {
    workers.Start(BegunTask(4096));
    Take(workers, 1);
  }
  EXPECT_EQ(target.most_running(), 1u);
}

TEST_F(WorkersTest, ReadsDoNotHoldUpOtherTasks) {
  workers.Start(BegunTask(4096, 1));
  ASSERT_TRUE(target.WaitUntilRunning(1));
  workers.Start(TrimTask(0, 2));
  const std::vector<std::unique_ptr<Task>> first = Take(workers, 1);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0]->request.cookie, 2u);
}

TEST_F(WorkersTest, ReadsBehindASlowOneAreRelieved) {
  EXPECT_EQ(workers.RelieveReads(), absl::InfiniteFuture());
  workers.Start(BegunTask(4096, 1));
  workers.Start(BegunTask(8192, 2));
  workers.Start(BegunTask(0, 3));
  ASSERT_TRUE(target.WaitUntilRunning(1));
  // Two more threads are needed, for the second slow one, and for the third.
  std::vector<std::unique_ptr<Task>> taken;
  const auto guard = std::chrono::steady_clock::now() + kHangGuard;
  while (taken.empty() && std::chrono::steady_clock::now() < guard) {
    const absl::Time next = workers.RelieveReads();
    if (next != absl::InfiniteFuture()) {
      std::this_thread::sleep_for(
          absl::ToChronoNanoseconds(next - SteadyNow()));
    }
    taken = workers.TakeFinished();
  }
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken[0]->request.cookie, 3u);
  EXPECT_EQ(workers.RelieveReads(), absl::InfiniteFuture());
  target.Open();
  Take(workers, 2);
}

// A thread that reads goes on as long as there are reads.
TEST_F(WorkersTest, SlowReadsDoNotTakeEveryThread) {
  for (size_t i = 1; i <= 2 * kMaxThreads; ++i)
    workers.Start(BegunTask(4096 * i, i));
  const auto guard = std::chrono::steady_clock::now() + kHangGuard;
  for (size_t reads = 1; reads <= Workers::kMostOfAKind; ++reads) {
    ASSERT_TRUE(target.WaitUntilRunning(reads));
    std::this_thread::sleep_for(
        absl::ToChronoNanoseconds(workers.RelieveReads() - SteadyNow()));
    ASSERT_LT(std::chrono::steady_clock::now(), guard);
    workers.RelieveReads();
  }
  workers.Start(TrimTask(0, 1000));
  const std::vector<std::unique_ptr<Task>> first = Take(workers, 1);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0]->request.cookie, 1000u);
  EXPECT_EQ(target.most_running(), Workers::kMostOfAKind + 1);
}

TEST_F(WorkersTest, ReadsThatNobodyWaitsForAnyMoreAreDropped) {
  workers.Start(BegunTask(4096, 1));
  ASSERT_TRUE(target.WaitUntilRunning(1));
  workers.Start(BegunTask(8192, 2));
  workers.DropReads();
  EXPECT_EQ(workers.pending(), 1u);
  target.Open();
  Take(workers, 1);
  EXPECT_EQ(target.ended(), 1u);
}

TEST_F(WorkersTest, ReadsThatMustRunAreCarriedOutThoughNobodyWaitsForThem) {
  const auto must_run = [](std::unique_ptr<Task> task) {
    task->must_run = true;
    return task;
  };
  workers.Start(BegunTask(4096, 1));
  ASSERT_TRUE(target.WaitUntilRunning(1));
  workers.Start(must_run(BegunTask(8192, 2)));
  workers.Start(BegunTask(12288, 3));
  workers.DropReads();
  EXPECT_EQ(workers.pending(), 2u);
  target.Open();
  Take(workers, 2);
  EXPECT_EQ(target.ended(), 2u);
}

// -- Backpressure

TEST_F(WorkersTest, AreFullOfTasksUntilOneIsTakenBack) {
  for (size_t i = 1; i <= kMaxTasks; ++i) {
    EXPECT_FALSE(workers.full()) << i;
    workers.Start(TrimTask(4096 * i));
  }
  EXPECT_TRUE(workers.full());
  target.Pass(4096);
  // Finished is not yet taken back: the memory is still in use.
  ASSERT_TRUE(WaitReadable(workers.event_fd()));
  EXPECT_TRUE(workers.full());
  Take(workers, 1);
  EXPECT_FALSE(workers.full());
  EXPECT_EQ(workers.pending(), kMaxTasks - 1);
  workers.Start(TrimTask(4096));
  EXPECT_TRUE(workers.full());
  target.Open();
  Take(workers, kMaxTasks);
  EXPECT_FALSE(workers.full());
}

TEST_F(WorkersTest, AreFullOfBytesUntilTheyAreTakenBack) {
  // What the tasks carry is counted, whether or not they have it yet.
  const auto start = [&] {
    auto task = TrimTask(4096);
    task->carries_payload = true;
    task->request.length = kPieceBytes;
    workers.Start(std::move(task));
  };
  constexpr size_t kFitting = kMaxTaskBytes / kPieceBytes;
  for (size_t i = 0; i < kFitting; ++i) {
    EXPECT_FALSE(workers.full()) << i;
    start();
  }
  EXPECT_TRUE(workers.full());
  EXPECT_LT(workers.pending(), kMaxTasks);
  target.Open();
  Take(workers, kFitting);
  EXPECT_FALSE(workers.full());
  start();
  EXPECT_FALSE(workers.full());
  Take(workers, 1);
}

// -- Memory

// Of the process, what is its own, in bytes.
size_t OwnMemory() {
  std::ifstream status("/proc/self/status");
  std::string word;
  size_t kib = 0;
  while (status >> word && word != "RssAnon:") {
  }
  status >> kib;
  return kib << 10;
}

// Bursts of reads of one length after the other, each as many as there may be
// at once, and none taken before all have ended.
TEST(Memory, OfWhatIsReadStaysWithinItsBoundWhateverWasReadBefore) {
  const nbdtest::TempImage image =
      nbdtest::TempImage::WithPattern(kMaxTaskBytes);
  nbdtest::FakeExport target(
      UniqueFd(open(image.path().c_str(), O_RDONLY | O_CLOEXEC)),
      {.size_bytes = kMaxTaskBytes, .read_only = true});
  Workers workers(target);
  const size_t before = OwnMemory();
  size_t most = 0;
  for (const uint64_t length :
       {256 << 10, 48 << 10, 256 << 10, 5000, 128 << 10, 256 << 10}) {
    size_t started = 0;
    for (uint64_t i = 0; !workers.full(); ++i, ++started) {
      auto task = std::make_unique<Task>(workers.buffers());
      task->request.type = NBD_CMD_READ;
      task->request.offset = i * length % (kMaxTaskBytes - length);
      task->request.length = length;
      task->begun = i % 2 == 0;
      workers.Start(std::move(task));
    }
    std::vector<std::unique_ptr<Task>> finished;
    while (finished.size() < started) {
      ASSERT_TRUE(WaitReadable(workers.event_fd()));
      for (std::unique_ptr<Task>& task : workers.TakeFinished()) {
        ASSERT_EQ(task->error, 0);
        finished.push_back(std::move(task));
      }
      workers.RelieveReads();
    }
    most = std::max(most, OwnMemory());
    EXPECT_GE(workers.buffers().size_bytes(), started * length);
    EXPECT_LE(workers.buffers().size_bytes(), kMaxTaskBytes + kPieceBytes);
  }
  const size_t bound =
      kMaxTaskBytes + kPieceBytes + kMaxThreads * kThreadStackBytes;
  EXPECT_GE(most - before, kMaxTaskBytes / 2);
#ifndef __SANITIZE_ADDRESS__  // which has memory of its own
  EXPECT_LE(most - before, bound + (2 << 20)) << "with the tasks themselves";
#endif
}

// -- The end

TEST(Workers, WaitAtTheEndForEveryTaskThatWasStarted) {
  constexpr size_t kTasks = 200;
  GatedExport target;
  std::thread opener;
  {
    Workers workers(target);
    for (size_t i = 1; i <= kTasks; ++i) workers.Start(TrimTask(4096 * i));
    EXPECT_TRUE(target.WaitUntilRunning(Workers::kMostOfAKind));
    // Most of them wait in the queue when the destructor begins.
    opener = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      target.Open();
    });
  }
  EXPECT_EQ(target.ended(), kTasks);
  opener.join();
}

TEST(Workers, EndWithResultsThatNobodyTook) {
  GatedExport target;
  {
    Workers workers(target);
    for (int i = 0; i < 10; ++i) workers.Start(TrimTask(0));
    ASSERT_TRUE(WaitReadable(workers.event_fd()));
  }
  EXPECT_EQ(target.ended(), 10u);
}

TEST(Workers, EndWithoutEverHavingStarted) {
  GatedExport target;
  {
    // Ends at once.
    Workers workers(target);
  }
  EXPECT_EQ(target.started(), 0u);
}

// -- No threads to be had

TEST(Workers, WithoutAnyThreadATaskIsRunAtOnce) {
  // Without an eventfd there can be no thread, since nobody would hear of its
  // results.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  GatedExport target;
  Workers workers(target);
  for (const uint64_t cookie : {1, 2}) {
    const std::unique_ptr<Task> done = workers.Start(TrimTask(0, cookie));
    ASSERT_NE(done, nullptr);
    EXPECT_EQ(done->request.cookie, cookie);
    EXPECT_EQ(target.ended(), cookie);
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(workers.event_fd(), -1);
  EXPECT_EQ(workers.pending(), 0u);
  EXPECT_TRUE(workers.TakeFinished().empty());
}

}  // namespace
}  // namespace nbdinetd
