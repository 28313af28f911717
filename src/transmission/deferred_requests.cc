#include "transmission/deferred_requests.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/steady_clock.h"
#include "protocol/nbd_error.h"

namespace nbdinetd {
namespace {

// After a block status that took less, the next one is carried out inline. If
// that one is slow, the requests behind it wait, once.
constexpr absl::Duration kQuickBlockStatus = absl::Milliseconds(1);

// The longest range of a block status that is carried out inline. The time of
// a longer one can't be judged by that of the last one.
constexpr uint64_t kMaxInlineStatusBytes = uint64_t{4} << 30;

// `limit` ends the one extent of NBD_CMD_FLAG_REQ_ONE; a descriptor may have
// `max_length`.
std::vector<StatusDescriptor> Descriptors(absl::Span<const Extent> extents,
                                          uint64_t limit, uint64_t max_length) {
  std::vector<StatusDescriptor> descriptors;
  descriptors.reserve(extents.size());
  for (const Extent& extent : extents) {
    const uint64_t length = std::min(extent.length_bytes, limit);
    descriptors.push_back({std::min(length, max_length),
                           extent.hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0});
    // The extents behind one that was shortened would have wrong offsets.
    if (length > max_length) break;
  }
  return descriptors;
}

}  // namespace

std::unique_ptr<Task> DeferredRequests::NewTask(const Request& request) const {
  auto task = std::make_unique<Task>(workers_.buffers());
  task->request = request;
  task->cut_short = &workers_.cut_short();
  return task;
}

void DeferredRequests::StartTask(std::unique_ptr<Task> task) {
  if (const auto run_at_once = workers_.Start(std::move(task))) {
    Answer(*run_at_once);
  }
}

void DeferredRequests::Start(const Request& request) {
  std::unique_ptr<Task> task = NewTask(request);
  task->whole = !target_.caches_reads();
  if (request.type == NBD_CMD_READ) {
    task->must_run = task->whole && target_.begins_reads();
    if (request.length <= kPieceBytes) {
      // Starts the read without waiting for it.
      task->begun = task->whole
                        ? task->must_run
                        : target_.Prefetch(request.offset, request.length) == 0;
    }
  }
  StartTask(std::move(task));
}

void DeferredRequests::StartWrite(const Request& request,
                                  absl::Span<const char> payload,
                                  std::shared_ptr<LongWrite> part_of) {
  std::unique_ptr<Task> task = NewTask(request);
  task->carries_payload = true;
  task->part_of = std::move(part_of);
  if (task->part_of != nullptr) ++task->part_of->unfinished;
  task->data = workers_.buffers().Take(payload.size());
  if (task->data == nullptr) {
    task->error = ENOMEM;
    task->error_offset = request.offset;
    Answer(*task);
    return;
  }
  std::memcpy(task->data.get(), payload.data(), payload.size());
  StartTask(std::move(task));
}

void DeferredRequests::FailPart(LongWrite& write, StorageError error) {
  if (write.error != NBD_SUCCESS) return;
  failures_.LogError(write.request, error);
  write.error = NbdErrorOf(error.number);
  write.sentence = FailureReplies::Sentence(write.request, error);
}

void DeferredRequests::EndPart(LongWrite& write) {
  if (--write.unfinished > 0) return;
  if (write.error != NBD_SUCCESS) {
    replies_.Error(write.request, write.error, write.sentence);
  } else if (write.request.has(NBD_CMD_FLAG_FUA)) {
    Start(write.request);
  } else {
    replies_.Success(write.request);
  }
}

void DeferredRequests::StartBlockStatus(const Request& request, bool is_last) {
  std::unique_ptr<Task> task = NewTask(request);
  // Waking a worker and this thread takes longer than most block statuses, and
  // no other request waits behind this one.
  if (is_last && block_status_is_quick_ && pending() == 0 &&
      request.length <= kMaxInlineStatusBytes &&
      !target_.finding_extents_may_sync()) {
    task->started = SteadyNow();
    RunTask(target_, *task);
    Answer(*task);
  } else {
    StartTask(std::move(task));
  }
}

void DeferredRequests::AnswerFinished() {
  if (pending() == 0) return;
  for (const std::unique_ptr<Task>& task : workers_.TakeFinished()) {
    if (replies_.ok()) Answer(*task);
  }
}

void DeferredRequests::Answer(const Task& task) {
  const Request& request = task.request;
  if (task.part_of != nullptr) {
    if (task.error != 0) FailPart(*task.part_of, task.error);
    EndPart(*task.part_of);
  } else if (task.error != 0) {
    failures_.Answer(request, task.error, task.error_offset);
  } else if (task.was_cut_short) {
    if (leaves_cut_short_) return;
    replies_.Error(request, NBD_ESHUTDOWN,
                   "the connection is ending, and the server has not carried "
                   "out all of the request");
  } else if (request.type == NBD_CMD_READ) {
    reads_.AnswerTask(task);
  } else if (request.type == NBD_CMD_BLOCK_STATUS) {
    AnswerBlockStatus(task);
  } else {
    replies_.Success(request);
  }
}

void DeferredRequests::AnswerBlockStatus(const Task& task) {
  const Request& request = task.request;
  block_status_is_quick_ = SteadyNow() - task.started < kQuickBlockStatus;
  const uint64_t limit = request.has(NBD_CMD_FLAG_REQ_ONE)
                             ? request.length
                             : std::numeric_limits<uint64_t>::max();
  replies_.BlockStatus(request, kBaseAllocationId,
                       Descriptors(task.extents, limit,
                                   replies_.encoder().max_descriptor_length()));
}

}  // namespace nbdinetd
