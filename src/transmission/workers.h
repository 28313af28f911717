// Threads for what would hold up the requests behind it.
//
// Invariant: a task is owned by exactly one side, the transmission thread or
// the workers, so that its contents need no lock; only the queues have one.
// The first thread starts with the first task.
//
// A thread for each task would be woken for each. That is right for what keeps
// the storage at work only while a thread waits for it; but the storage is at
// work for a read that has been begun without waiting (Task::begun), and what
// is left is to wait for its end. One thread does that for all such reads, in
// the order in which they were begun; and as long as they keep it busy, nobody
// needs to be woken but the transmission. Should one of them be so slow that it
// holds up those behind it, more threads are called.
//
// No kind of task can keep the others from the threads: each kind finds
// kReservedThreads, whatever the others do (MayRun()). So a flush is never
// behind slow reads, nor a read behind slow trims.
//
// Threads: everything here is for the transmission thread, which alone may
// construct and destroy.
#ifndef NBDINETD_TRANSMISSION_WORKERS_H_
#define NBDINETD_TRANSMISSION_WORKERS_H_

#include <pthread.h>

#include <array>
#include <condition_variable>
#include <deque>
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
  // `target` is borrowed and must outlive the workers. `event_fd` is what
  // CreateEventFd() gave; without a valid one there are no threads.
  explicit Workers(Export& target, UniqueFd event_fd = CreateEventFd())
      : target_(target), event_fd_(std::move(event_fd)) {}
  // Waits for the tasks that have been started.
  ~Workers();

  // What new tasks take their memory from; it has to outlive them.
  BufferPool& buffers() { return buffers_; }

  // Hands the task to a thread, and returns nullptr. Without any thread to be
  // had it is run at once, and given back.
  std::unique_ptr<Task> Start(std::unique_ptr<Task> task);

  // The tasks that have been finished since the last call, and their number
  // counts as pending no more.
  std::vector<std::unique_ptr<Task>> TakeFinished();

  // Calls more threads when a slow read holds up others. To be called again
  // by the time that is returned.
  absl::Time RelieveReads();

  // Nobody waits for results any more: drops what has not been begun and would
  // change nothing.
  void DropReads();

  // Readable while TakeFinished() has something to give.
  int event_fd() const { return event_fd_.get(); }

  // How many threads may be at one kind of task while there is no other.
  static constexpr size_t kMostOfAKind = kMaxThreads - 7 * kReservedThreads;

  size_t pending() const { return pending_; }
  // No further task should be started before one is taken back.
  bool full() const {
    return pending_ >= kMaxTasks || pending_bytes_ >= kMaxTaskBytes;
  }

 private:
  // What may hold up others of its like, and nobody else.
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

  // A task, or a call for one more thread that waits for begun reads, on its
  // way to a thread. It counts as running.
  struct Work {
    Kind kind;
    std::unique_ptr<Task> task;  // nullptr for a call
  };

  static void* ThreadMain(void* workers);
  void RunThread();
  void RunReads(std::unique_lock<std::mutex>& lock);

  // All with mutex_:
  // Whether one more thread may work at `kind`, so that every other kind still
  // finds its share.
  bool MayRun(Kind kind) const;
  // Moves to ready_ what may run; how much that is, for Wake().
  size_t Dispatch();
  void MakeReady(Kind kind, std::unique_ptr<Task> task);
  void Vacate(Kind kind) {
    --running_[kind];
    --running_in_all_;
  }
  void Finish(std::unique_ptr<Task> task);

  void Wake(size_t threads);
  bool AddThread();
  // Threads for all that is ready, as far as they can be had.
  void EnsureThreads();
  // The task counts as pending no more.
  void Release(const Task& task);

  Export& target_;
  BufferPool buffers_;
  UniqueFd event_fd_;
  size_t pending_ = 0;
  size_t pending_bytes_ = 0;
  std::vector<pthread_t> threads_;

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_:
  std::array<std::deque<std::unique_ptr<Task>>, kKinds> queues_;
  std::deque<Work> ready_;
  std::vector<std::unique_ptr<Task>> finished_;
  std::array<size_t, kKinds> running_ = {};
  size_t running_in_all_ = 0;
  size_t readers_wanted_ = 1;  // of running_[kBegunReads]
  size_t idle_threads_ = 0;    // or about to be
  // As many as there can be, as far as is known.
  size_t max_threads_ = kMaxThreads;
  bool stopping_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_WORKERS_H_
