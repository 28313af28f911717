// Threads for what would hold up the requests behind it.
//
// Invariant: a task is owned by exactly one side, the transmission thread or
// the workers, so that its contents need no lock; only the two queues have one.
// The first thread starts with the first task.
//
// A thread for each task would be woken for each. That is right for what keeps
// the storage at work only while a thread waits for it; but the storage is at
// work for a read that has been begun without waiting (Task::begun), and what is
// left is to wait for its end. One thread does that for all such reads, in the
// order in which they were begun; and as long as they keep it busy, nobody needs
// to be woken but the transmission. Should one of them be so slow that it holds
// up those behind it, more threads are called. Threads: everything here is for
// the transmission thread, which alone may construct and destroy.
#ifndef NBDINETD_ENGINE_WORKERS_H_
#define NBDINETD_ENGINE_WORKERS_H_

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "base/limits.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "engine/task.h"

namespace nbdinetd {

class Workers {
 public:
  // `target` is borrowed and must outlive the workers.
  explicit Workers(Export& target) : target_(target) {}
  // Waits for the tasks that have been started.
  ~Workers();

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

  // Readable while TakeFinished() has something to give; -1 before the first
  // Start().
  int event_fd() const { return event_fd_.get(); }

  size_t pending() const { return pending_; }
  // No further task should be started before one is taken back.
  bool full() const {
    return pending_ >= kMaxTasks || pending_bytes_ >= kMaxTaskBytes;
  }

 private:
  static void* ThreadMain(void* workers);
  void RunThread();
  void RunReads(std::unique_lock<std::mutex>& lock);
  // Whether a task that comes now needs one more thread to look at it.
  bool NeedsCall(const Task& task) const {
    return !task.begun || readers_ + reader_calls_ < readers_wanted_;
  }
  bool NeedsThread() const {
    return idle_threads_ <= queue_.size() + reader_calls_;
  }
  bool AddThread();
  void Finish(std::unique_ptr<Task> task);
  // The task counts as pending no more.
  void Release(const Task& task);

  Export& target_;
  UniqueFd event_fd_;
  size_t pending_ = 0;
  size_t pending_bytes_ = 0;
  std::vector<pthread_t> threads_;

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_:
  std::deque<std::unique_ptr<Task>> queue_;
  std::vector<std::unique_ptr<Task>> finished_;
  std::deque<std::unique_ptr<Task>> reads_;  // begun, in this order
  size_t readers_ = 0;       // threads that wait for the ends of reads
  size_t reader_calls_ = 0;  // calls for one more, not yet heeded
  size_t readers_wanted_ = 1;
  size_t idle_threads_ = 0;
  bool stopping_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_ENGINE_WORKERS_H_
