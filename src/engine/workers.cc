#include "engine/workers.h"

#include <sys/eventfd.h>

#include "base/limits.h"
#include "base/steady_clock.h"

namespace nbdinetd {

Workers::~Workers() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
}

void* Workers::ThreadMain(void* workers) {
  static_cast<Workers*>(workers)->RunThread();
  return nullptr;
}

bool Workers::AddThread() {
  if (!event_fd_.valid()) event_fd_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd_.valid()) return false;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kThreadStackBytes);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, &ThreadMain, this);
  pthread_attr_destroy(&attributes);
  if (error != 0) return false;
  threads_.push_back(thread);
  return true;
}

std::unique_ptr<Task> Workers::Start(std::unique_ptr<Task> task) {
  bool need_thread;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    need_thread = NeedsCall(*task) && NeedsThread();
  }
  if (need_thread && threads_.size() < kMaxThreads && !AddThread() &&
      threads_.empty()) {
    RunTask(target_, *task);
    return task;
  }
  task->started = SteadyNow();
  ++pending_;
  pending_bytes_ += task->memory_bytes();
  bool call;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    call = NeedsCall(*task);
    if (task->begun) {
      reader_calls_ += call ? 1 : 0;
      reads_.push_back(std::move(task));
    } else {
      queue_.push_back(std::move(task));
    }
  }
  if (call) work_.notify_one();
  return nullptr;
}

absl::Time Workers::RelieveReads() {
  if (pending_ == 0) return absl::InfiniteFuture();
  bool need_thread;
  const absl::Time now = SteadyNow();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (reads_.empty()) {
      readers_wanted_ = 1;
      return absl::InfiniteFuture();
    }
    const absl::Time limit = reads_.front()->started + kReadPatience;
    if (now < limit) return limit;
    if (readers_ + reader_calls_ >= kMaxReaders) return now + kReadPatience;
    readers_wanted_ = readers_ + reader_calls_ + 1;
    need_thread = NeedsThread();
    ++reader_calls_;
  }
  if (need_thread && threads_.size() < kMaxThreads) AddThread();
  work_.notify_one();
  return now + kReadPatience;
}

void Workers::RunThread() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    ++idle_threads_;
    work_.wait(lock, [this] {
      return stopping_ || !queue_.empty() || reader_calls_ > 0;
    });
    --idle_threads_;
    if (reader_calls_ > 0) {
      --reader_calls_;
      RunReads(lock);
      continue;
    }
    if (queue_.empty()) return;
    std::unique_ptr<Task> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    RunTask(target_, *task);
    lock.lock();
    Finish(std::move(task));
  }
}

void Workers::RunReads(std::unique_lock<std::mutex>& lock) {
  ++readers_;
  while (!reads_.empty()) {
    std::unique_ptr<Task> task = std::move(reads_.front());
    reads_.pop_front();
    lock.unlock();
    RunTask(target_, *task);
    lock.lock();
    Finish(std::move(task));
  }
  --readers_;
}

void Workers::Finish(std::unique_ptr<Task> task) {
  finished_.push_back(std::move(task));
  // One wake-up for as many results as pile up before it is seen.
  if (finished_.size() == 1) eventfd_write(event_fd_.get(), 1);
}

void Workers::DropReads() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const std::unique_ptr<Task>& task : reads_) Release(*task);
  reads_.clear();
  std::erase_if(queue_, [this](const std::unique_ptr<Task>& task) {
    const uint16_t type = task->request.type;
    const bool dropped = type == NBD_CMD_READ || type == NBD_CMD_CACHE ||
                         type == NBD_CMD_BLOCK_STATUS;
    if (dropped) Release(*task);
    return dropped;
  });
}

void Workers::Release(const Task& task) {
  --pending_;
  pending_bytes_ -= task.memory_bytes();
}

std::vector<std::unique_ptr<Task>> Workers::TakeFinished() {
  std::vector<std::unique_ptr<Task>> finished;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_.empty()) return finished;
    finished.swap(finished_);
    eventfd_t ignored;
    eventfd_read(event_fd_.get(), &ignored);
  }
  for (const std::unique_ptr<Task>& task : finished) Release(*task);
  return finished;
}

}  // namespace nbdinetd
