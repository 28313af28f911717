// Threads that carry out tasks, so that they don't delay the requests behind
// them. The first thread starts with the first task.
//
// Invariant: exactly one side owns a task, the transmission thread or the
// workers. Its contents therefore need no lock; only the queues have one.
//
// Most tasks are carried out by one thread each. Reads that the export has
// started (Task::begun) need none: the storage works on all of them
// already. One thread waits for them, in the order in which they were started,
// and wakes only the transmission thread. If a slow one delays those behind it,
// more threads join (RelieveReads()).
//
// Each kind of task has kReservedThreads, whatever the other kinds do
// (MayRun()). A flush therefore never waits for slow reads, nor a read for slow
// trims.
//
// Threads: the transmission thread constructs and destroys the object, and
// makes all calls.
#ifndef NBDINETD_TRANSMISSION_WORKERS_H_
#define NBDINETD_TRANSMISSION_WORKERS_H_

#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/limits.h"
#include "base/unique_fd.h"
#include "transmission/buffer_pool.h"
#include "transmission/task.h"

namespace nbdinetd {

class Workers {
 public:
  // `target` is borrowed and must outlive the workers. `between_pieces` may be
  // nullptr; it is called by Start(), between the pieces of a task that is
  // carried out at once, and may call CutShort(). `event_fd` comes from
  // CreateEventFd(); if it is invalid, no thread is started.
  explicit Workers(Export& target,
                   std::function<void()> between_pieces = nullptr,
                   UniqueFd event_fd = CreateEventFd())
      : target_(target),
        between_pieces_(std::move(between_pieces)),
        event_fd_(std::move(event_fd)) {}
  // Waits for the tasks that have been started.
  ~Workers();

  // The memory of new tasks; it must outlive them.
  BufferPool& buffers() { return buffers_; }

  // Hands the task to a thread, and returns nullptr. If no thread can be
  // started, carries it out at once and returns it.
  std::unique_ptr<Task> Start(std::unique_ptr<Task> task);

  // Returns the tasks that have been finished since the last call. They are no
  // longer pending.
  std::vector<std::unique_ptr<Task>> TakeFinished();

  // Adds threads when a slow read delays others. Returns the time of the next
  // call at the latest.
  absl::Time RelieveReads();

  // Ends each trim and zeroing before its next piece, also those that haven't
  // been started.
  void CutShort() { cut_short_.store(true, std::memory_order_relaxed); }
  // For Task::cut_short.
  const std::atomic<bool>& cut_short() const { return cut_short_; }

  // The peer is gone: drops tasks that have not been started and change
  // nothing, but for Task::must_run.
  void DropReads();

  // Readable while TakeFinished() would return a task.
  int event_fd() const { return event_fd_.get(); }

  // The most threads for one kind of task when there is no other kind.
  static constexpr size_t kMostOfAKind = kMaxThreads - 7 * kReservedThreads;

  size_t pending() const { return pending_; }
  // No further task should be started before TakeFinished() returns one.
  bool full() const {
    return pending_ >= kMaxTasks || pending_bytes_ >= kMaxTaskBytes;
  }

 private:
  // Tasks of one kind may delay each other, and no others.
  enum Kind : size_t {
    kBegunReads,
    kReads,
    kWrites,
    kFlushes,
    kTrims,
    kCaches,
    kZeroes,
    kStatuses,
    kKinds
  };
  static_assert(kMostOfAKind == kMaxThreads - (kKinds - 1) * kReservedThreads);
  static Kind KindOf(const Task& task);

  // Work for the next free thread: a task, or waiting for begun reads. It
  // counts as running.
  struct Work {
    Kind kind;
    std::unique_ptr<Task> task;  // nullptr: wait for begun reads
  };

  static void* ThreadMain(void* workers);
  void RunThread();
  void RunReads(std::unique_lock<std::mutex>& lock);

  // The caller of these holds mutex_.
  // Whether one more thread may work at `kind` and leaves every other kind its
  // reserved threads.
  bool MayRun(Kind kind) const;
  // Moves the work that may run to ready_. Returns how much, for Wake().
  size_t Dispatch();
  void MakeReady(Kind kind, std::unique_ptr<Task> task);
  void Vacate(Kind kind) {
    --running_[kind];
    --running_in_all_;
  }
  void Finish(std::unique_ptr<Task> task);

  void Wake(size_t threads);
  bool AddThread();
  // Starts threads for all of ready_, as far as possible.
  void EnsureThreads();
  // The task is no longer pending.
  void Release(const Task& task);

  Export& target_;
  const std::function<void()> between_pieces_;
  BufferPool buffers_;
  UniqueFd event_fd_;
  size_t pending_ = 0;
  size_t pending_bytes_ = 0;
  std::vector<pthread_t> threads_;
  std::atomic<bool> cut_short_ = false;

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_:
  std::array<std::deque<std::unique_ptr<Task>>, kKinds> queues_;
  std::deque<Work> ready_;
  std::vector<std::unique_ptr<Task>> finished_;
  std::array<size_t, kKinds> running_ = {};
  size_t running_in_all_ = 0;
  size_t readers_wanted_ = 1;  // of running_[kBegunReads]
  size_t idle_threads_ = 0;    // idle, or starting
  // Lower once pthread_create() has failed.
  size_t max_threads_ = kMaxThreads;
  bool stopping_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_WORKERS_H_
