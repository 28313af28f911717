// Workers without threads: the same class, whose tasks run when the input says
// so, in the order that it says. What depends on how threads happen to be
// scheduled can so be tried again and again. Linked instead of
// src/transmission/workers.cc, whose own tests have the threads. One queue is
// enough here.

#include "transmission/workers.h"

#include <memory>
#include <utility>
#include <vector>

#include "base/steady_clock.h"
#include "export/stored_export.h"
#include "fuzz/simulation.h"

namespace nbdinetd {
namespace {

using nbdfuzz::Simulation;

// The right to say that a task of an export is under way.
struct BusyExport : StoredExport {
  using StoredExport::Busy;
};

// What is under way in no thread. One connection at a time, as everything here.
thread_local std::vector<std::unique_ptr<BusyExport::Busy>> begun;

void Run(Export& target, Task& task) {
  Simulation::Current()->worker_is_at = task.request.cookie;
  RunTask(target, task);
  Simulation::Current()->worker_is_at.reset();
}

uint8_t Decide() { return Simulation::Current()->schedule_tape().Next(); }

}  // namespace

Workers::~Workers() {
  event_fd_.Reset();
  begun.clear();
}

std::unique_ptr<Task> Workers::Start(std::unique_ptr<Task> task) {
  const uint8_t decision = Decide();
  task->started = SteadyNow();
  if (decision == 0xff && threads_.empty() && queues_[0].empty()) {
    // No thread is to be had.
    if (between_pieces_ != nullptr) task->between_pieces = &between_pieces_;
    Run(target_, *task);
    return task;
  }
  if (!event_fd_.valid()) {
    event_fd_.Reset(nbdfuzz::kWorkersFd);
    Simulation::Current()->workers_ready = [this](bool something_else) {
      if (!finished_.empty()) return true;
      if (queues_[0].empty()) return false;
      // Storage is slower than anything else, or not.
      return !something_else || Decide() % 2 == 0;
    };
  }
  ++pending_;
  pending_bytes_ += task->memory_bytes();
  // A trim or a zeroing that has begun holds up writes.
  const uint16_t type = task->request.type;
  if ((type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES) &&
      (decision & 0x40) != 0) {
    begun.push_back(std::make_unique<BusyExport::Busy>(
        *Simulation::Current()->stored_export,
        (decision & 0x20) != 0 ? BusyExport::Busy::kReadsAndWrites
                               : BusyExport::Busy::kWrites));
  }
  queues_[0].push_back(std::move(task));
  return nullptr;
}

std::vector<std::unique_ptr<Task>> Workers::TakeFinished() {
  // Some are done by now; all of them, unless the input says otherwise.
  const uint8_t decision = Decide();
  size_t left = decision == 0 ? queues_[0].size() : decision % 8;
  while (left-- > 0 && !queues_[0].empty()) {
    const auto which =
        queues_[0].begin() +
        static_cast<long>(decision == 0 ? 0 : Decide() % queues_[0].size());
    std::unique_ptr<Task> task = std::move(*which);
    queues_[0].erase(which);
    if (queues_[0].empty()) begun.clear();
    Run(target_, *task);
    finished_.push_back(std::move(task));
  }
  std::vector<std::unique_ptr<Task>> finished;
  finished.swap(finished_);
  for (const std::unique_ptr<Task>& task : finished) Release(*task);
  if (pending_ == 0) buffers_.Trim();
  return finished;
}

// Here no thread can be slow.
absl::Time Workers::RelieveReads() { return absl::InfiniteFuture(); }

void Workers::DropReads() {
  std::erase_if(queues_[0], [this](const std::unique_ptr<Task>& task) {
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

}  // namespace nbdinetd
