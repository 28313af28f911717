// Receives writes: moves the payload from the channel's input to the export, or
// to a task for a worker.
//
// A payload of up to kPieceBytes is written once all of it has been received; a
// longer one in pieces, as it arrives, so that memory does not grow with the
// request.
//
// Invariant: at most one write is under way, and the channel's input begins
// with the rest of its payload. Threads: one.
#ifndef NBDINETD_TRANSMISSION_WRITE_RECEIVER_H_
#define NBDINETD_TRANSMISSION_WRITE_RECEIVER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "export/export.h"
#include "protocol/nbd.h"
#include "protocol/request.h"
#include "stream/channel.h"
#include "transmission/deferred_requests.h"
#include "transmission/failure_replies.h"
#include "transmission/reply_sender.h"

namespace nbdinetd {

class WriteReceiver {
 public:
  // All borrowed.
  WriteReceiver(Channel& channel, Export& target, ReplySender& replies,
                FailureReplies& failures, DeferredRequests& deferred)
      : channel_(channel),
        target_(target),
        replies_(replies),
        failures_(failures),
        deferred_(deferred) {}

  // Begins a write, whose payload follows in the input. If `verdict` is an
  // error, the payload is discarded, and the reply is that error; the request
  // may then be another one that has a payload in spite of the specification.
  void Begin(const Request& request, const Verdict& verdict);

  // Takes the received part of the payload; at the payload's end, answers the
  // write or starts its task. False when the write needs more input, or waits
  // for a task.
  bool Continue();

  // A part of a write's payload has not been taken yet.
  bool under_way() const { return write_.has_value(); }
  // The write waits for a task, and not for input.
  bool waits_for_task() const {
    return write_.has_value() && write_->waits_for_task;
  }

 private:
  struct PendingWrite {
    Request request;
    uint64_t consumed = 0;  // bytes of the payload
    // Decided once in each turn of the loop. The loop tries the received bytes
    // before it receives the end of the input.
    bool waits_for_task = false;
    // Not NBD_SUCCESS: the rest of the payload is discarded.
    NbdError error = NBD_SUCCESS;
    std::string sentence;
  };

  bool WriteWhole(const Request& request);
  bool WritePiece(PendingWrite& write);
  void Discard(PendingWrite& write);
  void Finish(const PendingWrite& write);
  // A write would wait in the kernel for a task; the end of the task wakes the
  // loop.
  bool HasToWait() const;

  Channel& channel_;
  Export& target_;
  ReplySender& replies_;
  FailureReplies& failures_;
  DeferredRequests& deferred_;
  std::optional<PendingWrite> write_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_WRITE_RECEIVER_H_
