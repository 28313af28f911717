// Gathers the replies of one connection in a buffer, so that one send answers
// all requests of one receive.
//
// Data is read straight into the buffer, behind the room for its header. Once
// the peer is gone, nothing is sent, and ok() is false. Bytes and errors are
// counted in the statistics all the same; the histograms have only requests
// whose replies were sent. Threads: one, the only one that writes to the
// stream.
#ifndef NBDINETD_TRANSMISSION_REPLY_SENDER_H_
#define NBDINETD_TRANSMISSION_REPLY_SENDER_H_

#include <memory>
#include <optional>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/statistics.h"
#include "protocol/reply.h"
#include "stream/channel.h"
#include "transmission/answered_requests.h"
#include "transmission/pacer.h"

namespace nbdinetd {

class ReplySender {
 public:
  // `channel` and `statistics` are borrowed, and `pacer`, too, which holds the
  // replies to writes while it limits; nullptr for no limits.
  ReplySender(Channel& channel, ReplyStyle style, Statistics& statistics,
              Pacer* pacer = nullptr);

  // Knows the reply style of this connection.
  const ReplyEncoder& encoder() const { return encoder_; }

  // Whether SendFilePiece() can send anything.
  bool sends_files() const { return channel_.sends_files(); }
  // See Channel.
  size_t held_bytes() const { return channel_.held_bytes(); }
  absl::Time last_progress() const { return channel_.last_progress(); }

  void Success(const Request& request);
  // The reply to a write that the pacer has held.
  void Send(const Pacer::Held& held);
  void Error(const Request& request, NbdError error,
             absl::string_view sentence);
  void ErrorAt(const Request& request, NbdError error,
               absl::string_view sentence, uint64_t offset);
  // The sum of the descriptors' lengths may exceed the request's length.
  void BlockStatus(const Request& request, uint32_t context_id,
                   absl::Span<const StatusDescriptor> descriptors);

  // Data in two steps: ReserveData() returns room for `length` <= kPieceBytes
  // bytes, which the caller fills, and CommitData() adds them to the reply. No
  // other call may come between the two; without the second, nothing has
  // happened. If the reply may have several chunks, blocks of zeroes become
  // NBD_REPLY_TYPE_OFFSET_HOLE.
  char* ReserveData(size_t length);
  void CommitData(const Request& request, uint64_t offset, size_t length,
                  bool done);
  // The same for bytes in another buffer. They are sent or copied at once.
  void Data(const Request& request, uint64_t offset,
            absl::Span<const char> bytes, bool done);

  // A read as one content chunk of any length: BeginData() adds its header. All
  // of its bytes follow, in pieces of at most kPieceBytes, and nothing else.
  void BeginData(const Request& request);
  char* ReservePiece(size_t length);
  void CommitPiece(size_t length);
  // Sends the gathered replies, and then a piece of any length from a file by
  // sendfile(2). Returns the number of bytes sent; see Channel::SendFile().
  size_t SendFilePiece(int file, uint64_t offset, size_t length);
  void EndData(const Request& request);

  // A hard disconnect. Gathered replies are not sent.
  void Abort();
  // Sends the gathered replies. False when the peer is gone.
  bool Flush();
  bool ok() const { return ok_; }

 private:
  // Whether the pacer holds the reply to this request.
  bool IsPaced(const Request& request) const {
    return request.type == NBD_CMD_WRITE && pacer_ != nullptr &&
           pacer_->limits();
  }
  // Sends the reply, or has the pacer hold it, which needs a copy of
  // `sentence`.
  void Fail(const Request& request, NbdError error, absl::string_view sentence,
            std::optional<uint64_t> offset);
  void SendError(const Request& request, NbdError error,
                 absl::string_view sentence, std::optional<uint64_t> offset);
  bool FlushBefore(bool more);
  // The buffer is empty.
  void CountAnswered();
  // All of the reply is in the buffer, or has been sent. May call Flush().
  void NoteAnswered(const Request& request, bool succeeded = true);
  void CommitChunk(const Request& request, uint64_t offset, size_t length,
                   bool done);
  void DataChunk(const Request& request, uint64_t offset,
                 absl::Span<const char> bytes, bool done);
  void Hole(const Request& request, uint64_t offset, uint64_t length,
            bool done);
  // Returns room for `n` bytes at the end of the buffer; calls Flush() if
  // needed.
  char* Reserve(size_t n);
  void Commit(const char* end) {
    size_ = static_cast<size_t>(end - buffer_.get());
  }

  Channel& channel_;
  const ReplyEncoder encoder_;
  Statistics& statistics_;
  AnsweredRequests answered_;
  Pacer* const pacer_;
  bool ok_ = true;
  std::unique_ptr<char[]> buffer_;
  size_t size_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_REPLY_SENDER_H_
