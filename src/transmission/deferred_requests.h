// Hands requests that may wait for the storage to the workers, and answers them
// when they are done.
//
// Threads: one, beside the workers.
#ifndef NBDINETD_TRANSMISSION_DEFERRED_REQUESTS_H_
#define NBDINETD_TRANSMISSION_DEFERRED_REQUESTS_H_

#include <cstddef>
#include <memory>

#include "absl/types/span.h"
#include "export/export.h"
#include "protocol/request.h"
#include "transmission/failure_replies.h"
#include "transmission/read_replies.h"
#include "transmission/reply_sender.h"
#include "transmission/task.h"
#include "transmission/workers.h"

namespace nbdinetd {

class DeferredRequests {
 public:
  // All borrowed.
  DeferredRequests(Workers& workers, Export& target, ReplySender& replies,
                   ReadReplies& reads, FailureReplies& failures)
      : workers_(workers),
        target_(target),
        replies_(replies),
        reads_(reads),
        failures_(failures) {}

  // Starts the request; for a write, whose payload has been written already,
  // the flush that makes it durable. Without a worker, it is carried out and
  // answered at once.
  void Start(const Request& request);
  // Starts a write with its payload, which is copied. For a part of a longer
  // write, `request` is that part.
  void StartWrite(const Request& request, absl::Span<const char> payload,
                  std::shared_ptr<LongWrite> part_of = nullptr);
  // A part of the write has failed with an errno value.
  void FailPart(LongWrite& write, StorageError error);
  // A part of the write is finished, or no further one follows. Answers the
  // write after the last one, or starts the flush that makes it durable.
  void EndPart(LongWrite& write);
  // Starts a block status. `is_last`: no further request has been received.
  void StartBlockStatus(const Request& request, bool is_last);

  // Answers the requests that the workers have finished.
  void AnswerFinished();
  // From now on, a request that is cut short isn't answered: the client of a
  // connection that drains sends it again over another one.
  void LeaveCutShort() { leaves_cut_short_ = true; }

  // The number of requests that were started and not answered.
  size_t pending() const { return workers_.pending(); }
  // No further request should be started now.
  bool full() const { return workers_.full(); }

 private:
  std::unique_ptr<Task> NewTask(const Request& request) const;
  void StartTask(std::unique_ptr<Task> task);
  void Answer(const Task& task);
  void AnswerBlockStatus(const Task& task);

  Workers& workers_;
  Export& target_;
  ReplySender& replies_;
  ReadReplies& reads_;
  FailureReplies& failures_;
  // The last block status took less than kQuickBlockStatus.
  bool block_status_is_quick_ = false;
  bool leaves_cut_short_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_DEFERRED_REQUESTS_H_
