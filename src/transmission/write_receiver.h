// Receives writes: moves the payload from the channel's input to the export, or
// to a task for a worker.
//
// A payload of up to kPieceBytes is written once all of it has been received; a
// longer one in pieces, as it arrives, so that memory does not grow with the
// request. While a task would hold up writes, the pieces are tasks, too.
//
// Invariant: at most one write is under way, and the channel's input begins
// with the rest of its payload. Threads: one.
#ifndef NBDINETD_TRANSMISSION_WRITE_RECEIVER_H_
#define NBDINETD_TRANSMISSION_WRITE_RECEIVER_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "export/export.h"
#include "protocol/nbd.h"
#include "protocol/request.h"
#include "stream/channel.h"
#include "transmission/deferred_requests.h"
#include "transmission/failure_replies.h"
#include "transmission/reply_sender.h"
#include "transmission/task.h"

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
  // write or starts its task. False when the write needs more input, or there
  // are too many tasks.
  bool Continue();

  // A part of a write's payload has not been taken yet.
  bool under_way() const { return write_.has_value(); }
  // The bytes of that part. Only while under_way().
  uint64_t bytes_left() const {
    return write_->own.request.length - write_->consumed;
  }

 private:
  struct PendingWrite {
    LongWrite& state() { return shared == nullptr ? own : *shared; }

    uint64_t consumed = 0;  // bytes of the payload
    LongWrite own;
    // Replaces `own` once a part is a task.
    std::shared_ptr<LongWrite> shared;
  };

  bool WriteWhole(const Request& request);
  bool WritePiece(PendingWrite& write);
  void StartPart(PendingWrite& write, uint64_t offset, size_t bytes);
  void Discard(PendingWrite& write);

  Channel& channel_;
  Export& target_;
  ReplySender& replies_;
  FailureReplies& failures_;
  DeferredRequests& deferred_;
  std::optional<PendingWrite> write_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_WRITE_RECEIVER_H_
