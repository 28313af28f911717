#include "transmission/workers.h"

#include <sys/eventfd.h>

#include <utility>

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

Workers::Kind Workers::KindOf(const Task& task) {
  if (task.begun) return kBegunReads;
  switch (task.request.type) {
    case NBD_CMD_READ:
      return kReads;
    case NBD_CMD_WRITE:
      // Without a payload, it is the flush that makes a write durable.
      return task.carries_payload ? kWrites : kFlushes;
    case NBD_CMD_TRIM:
      return kTrims;
    case NBD_CMD_CACHE:
      return kCaches;
    case NBD_CMD_WRITE_ZEROES:
      return kZeroes;
    case NBD_CMD_BLOCK_STATUS:
      return kStatuses;
    default:
      return kFlushes;
  }
}

bool Workers::MayRun(Kind kind) const {
  if (running_[kind] < kReservedThreads) return true;
  size_t reserved = 0;
  for (size_t other = 0; other < kKinds; ++other) {
    if (other != kind && running_[other] < kReservedThreads) {
      reserved += kReservedThreads - running_[other];
    }
  }
  return running_in_all_ + reserved < max_threads_;
}

void Workers::MakeReady(Kind kind, std::unique_ptr<Task> task) {
  ++running_[kind];
  ++running_in_all_;
  ready_.push_back({kind, std::move(task)});
}

size_t Workers::Dispatch() {
  const size_t before = ready_.size();
  while (!queues_[kBegunReads].empty() &&
         running_[kBegunReads] < readers_wanted_ && MayRun(kBegunReads)) {
    MakeReady(kBegunReads, nullptr);
  }
  for (size_t i = kBegunReads + 1; i < kKinds; ++i) {
    const auto kind = static_cast<Kind>(i);
    while (!queues_[kind].empty() && MayRun(kind)) {
      std::unique_ptr<Task> task = std::move(queues_[kind].front());
      queues_[kind].pop_front();
      MakeReady(kind, std::move(task));
    }
  }
  return ready_.size() - before;
}

void Workers::Wake(size_t threads) {
  for (; threads > 0; --threads) work_.notify_one();
}

void* Workers::ThreadMain(void* workers) {
  static_cast<Workers*>(workers)->RunThread();
  return nullptr;
}

bool Workers::AddThread() {
  // The transmission thread could not learn of results.
  if (!event_fd_.valid()) return false;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kThreadStackBytes);
  pthread_t thread;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++idle_threads_;
  }
  const int error = pthread_create(&thread, &attributes, &ThreadMain, this);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    --idle_threads_;
    return false;
  }
  threads_.push_back(thread);
  return true;
}

void Workers::EnsureThreads() {
  for (;;) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (ready_.size() <= idle_threads_ || threads_.size() == kMaxThreads) {
        return;
      }
    }
    const bool added = AddThread();
    const std::lock_guard<std::mutex> lock(mutex_);
    max_threads_ = added ? kMaxThreads : threads_.size();
    if (!added) return;
  }
}

std::unique_ptr<Task> Workers::Start(std::unique_ptr<Task> task) {
  if (threads_.empty() && !AddThread()) {
    if (between_pieces_ != nullptr) task->between_pieces = &between_pieces_;
    RunTask(target_, *task);
    return task;
  }
  task->started = SteadyNow();
  ++pending_;
  pending_bytes_ += task->memory_bytes();
  size_t ready;
  {
    const Kind kind = KindOf(*task);
    const std::lock_guard<std::mutex> lock(mutex_);
    queues_[kind].push_back(std::move(task));
    ready = Dispatch();
  }
  if (ready > 0) {
    Wake(ready);
    EnsureThreads();
  }
  return nullptr;
}

absl::Time Workers::RelieveReads() {
  if (pending_ == 0) return absl::InfiniteFuture();
  const absl::Time now = SteadyNow();
  size_t ready = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto& reads = queues_[kBegunReads];
    if (reads.empty()) {
      readers_wanted_ = 1;
      return absl::InfiniteFuture();
    }
    const absl::Time limit = reads.front()->started + kReadPatience;
    if (now < limit) return limit;
    if (MayRun(kBegunReads)) {
      readers_wanted_ = running_[kBegunReads] + 1;
      ready = Dispatch();
    }
  }
  Wake(ready);
  EnsureThreads();
  return now + kReadPatience;
}

void Workers::RunThread() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !ready_.empty(); });
    if (ready_.empty()) return;
    Work work = std::move(ready_.front());
    ready_.pop_front();
    --idle_threads_;
    if (work.task == nullptr) {
      RunReads(lock);
    } else {
      lock.unlock();
      RunTask(target_, *work.task);
      lock.lock();
      Finish(std::move(work.task));
    }
    Vacate(work.kind);
    ++idle_threads_;
    const size_t ready = Dispatch();
    // This thread takes one of them.
    if (ready > 1) Wake(ready - 1);
  }
}

void Workers::RunReads(std::unique_lock<std::mutex>& lock) {
  auto& reads = queues_[kBegunReads];
  while (!reads.empty()) {
    std::unique_ptr<Task> task = std::move(reads.front());
    reads.pop_front();
    lock.unlock();
    RunTask(target_, *task);
    lock.lock();
    Finish(std::move(task));
  }
}

void Workers::Finish(std::unique_ptr<Task> task) {
  finished_.push_back(std::move(task));
  // One wake-up for all results until the transmission thread takes them.
  if (finished_.size() == 1) eventfd_write(event_fd_.get(), 1);
}

void Workers::DropReads() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto drop = [this](const std::unique_ptr<Task>& task) {
    if (task == nullptr || task->must_run) return false;
    Release(*task);
    return true;
  };
  for (const Kind kind : {kBegunReads, kReads, kCaches, kStatuses}) {
    std::erase_if(queues_[kind], drop);
    std::erase_if(ready_, [&](const Work& work) {
      if (work.kind != kind || !drop(work.task)) return false;
      Vacate(kind);
      return true;
    });
  }
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
  if (pending_ == 0) buffers_.Trim();
  return finished;
}

}  // namespace nbdinetd
