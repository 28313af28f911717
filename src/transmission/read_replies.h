// Answers reads: from the page cache at once, and when a task has read them.
//
// The data of a reply comes in one of five ways: a read into the output buffer;
// the buffer of a task; one content chunk for each piece of a longer read; one
// chunk for all of it; and sendfile(2), for one chunk of a range that the page
// cache holds. The reply style (ReplyEncoder) and the stream decide which ones
// are possible, and WayChoice which one is faster.
//
// Threads: one.
#ifndef NBDINETD_TRANSMISSION_READ_REPLIES_H_
#define NBDINETD_TRANSMISSION_READ_REPLIES_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "export/export.h"
#include "protocol/request.h"
#include "transmission/failure_replies.h"
#include "transmission/reply_sender.h"
#include "transmission/task.h"
#include "transmission/way_choice.h"

namespace nbdinetd {

class ReadReplies {
 public:
  // All borrowed. No chunk has more than `max_chunk_bytes` of data.
  ReadReplies(Export& target, ReplySender& replies, FailureReplies& failures,
              uint64_t max_chunk_bytes)
      : target_(target),
        replies_(replies),
        failures_(failures),
        max_chunk_bytes_(max_chunk_bytes),
        ways_(replies.held_bytes()) {}

  // Answers the read as far as the page cache allows, without waiting for the
  // storage. Returns the part that is left for a task: nullopt if all is
  // answered, the whole request, or its rest after some content chunks.
  std::optional<Request> AnswerCached(const Request& request);

  // Answers a read that a task has carried out without an error.
  void AnswerTask(const Task& task);

  // A read failed after the header of its simple reply had been sent, and a
  // hard disconnect has ended the connection.
  bool broke_off() const { return broke_off_; }

 private:
  // As AnswerCached(): by sendfile(2) or a copy, as WayChoice says, and always
  // by a copy.
  std::optional<Request> AnswerLong(const Request& request);
  std::optional<Request> AnswerByCopy(const Request& request);
  // Sends all of the read, which is `data`.
  void SendData(const Request& request, absl::Span<const char> data);
  // Sends the read in content chunks as far as the page cache holds it. Returns
  // the offset of the first byte that it doesn't hold; the read's end when it
  // holds all.
  uint64_t SendCachedFragments(const Request& request);
  void SendFragments(const Request& request);
  uint64_t SendAsFiles(uint64_t offset, uint64_t end);
  // With `as_file`, sendfile(2) sends the data as far as it can.
  void SendOneChunk(const Request& request, bool as_file = false);

  Export& target_;
  ReplySender& replies_;
  FailureReplies& failures_;
  const uint64_t max_chunk_bytes_;
  WayChoice ways_;
  bool broke_off_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_READ_REPLIES_H_
