// The replies of one connection on their way out: gathered in one buffer, so
// that what one receive brought is answered by one send.
//
// Data is read straight into the buffer, behind the room for its header. Once
// the peer is gone, nothing is sent, and ok() is false. Replies are counted in
// the statistics all the same. Threads: one, the only one that writes to the
// stream.
#ifndef NBDINETD_TRANSMISSION_REPLY_SENDER_H_
#define NBDINETD_TRANSMISSION_REPLY_SENDER_H_

#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "protocol/reply.h"
#include "stream/channel.h"
#include "transmission/statistics.h"

namespace nbdinetd {

class ReplySender {
 public:
  // `channel` and `statistics` are borrowed.
  ReplySender(Channel& channel, ReplyStyle style, Statistics& statistics);

  // How this connection's replies may look; see ReplyEncoder.
  const ReplyEncoder& encoder() const { return encoder_; }

  // Whether SendFilePiece() can send anything.
  bool sends_files() const { return channel_.sends_files(); }

  void Success(const Request& request);
  void Error(const Request& request, NbdError error,
             absl::string_view sentence);
  void ErrorAt(const Request& request, NbdError error,
               absl::string_view sentence, uint64_t offset);
  // The descriptors' lengths may add up to more than was asked for.
  void BlockStatus(const Request& request, uint32_t context_id,
                   absl::Span<const StatusDescriptor> descriptors);

  // Data in two steps: room for `length` <= kPieceBytes bytes, to be filled by
  // the caller, and the announcement that they are there. Without the second
  // step nothing has happened. Between the two nothing else may be called.
  // Where the reply may have several chunks, blocks of zeroes among the bytes
  // travel as holes.
  char* ReserveData(size_t length);
  void CommitData(const Request& request, uint64_t offset, size_t length,
                  bool done);
  // The same for bytes that lie elsewhere; they are sent or copied at once.
  void Data(const Request& request, uint64_t offset,
            absl::Span<const char> bytes, bool done);

  // A read as one content chunk of any length: first its header, then all of
  // its bytes, in pieces of at most kPieceBytes, and nothing else between.
  void BeginData(const Request& request);
  char* ReservePiece(size_t length);
  void CommitPiece(size_t length);
  // A piece of any length that is sent from a file without being copied, after
  // what is gathered. Returns how many bytes went, fewer as Channel::SendFile()
  // says.
  size_t SendFilePiece(int file, uint64_t offset, size_t length);
  void EndData(const Request& request);

  // A hard disconnect: nothing more is sent, nor what is gathered.
  void Abort();
  // Sends what is gathered. False when the peer is gone.
  bool Flush();
  bool ok() const { return ok_; }

 private:
  bool FlushBefore(bool more);
  void CommitChunk(const Request& request, uint64_t offset, size_t length,
                   bool done);
  void DataChunk(const Request& request, uint64_t offset,
                 absl::Span<const char> bytes, bool done);
  void Hole(const Request& request, uint64_t offset, uint64_t length,
            bool done);
  // Room for `n` bytes at the end of the buffer, after a Flush() if need be.
  char* Reserve(size_t n);
  void Commit(const char* end) {
    size_ = static_cast<size_t>(end - buffer_.get());
  }

  Channel& channel_;
  const ReplyEncoder encoder_;
  Statistics& statistics_;
  bool ok_ = true;
  std::unique_ptr<char[]> buffer_;
  size_t size_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_REPLY_SENDER_H_
