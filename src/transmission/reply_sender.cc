#include "transmission/reply_sender.h"

#include <cstring>
#include <string>

#include "base/limits.h"
#include "protocol/zero_blocks.h"

namespace nbdinetd {
namespace {

// Fewer bytes are copied into the buffer: a copy costs less than a send.
constexpr size_t kCopyBytes = 32 << 10;

static_assert(kOutputBytes >= kPieceBytes + kMaxReplyBytes);
static_assert(kOutputBytes >= 40 + 16 * kMaxDescriptors);

}  // namespace

ReplySender::ReplySender(Channel& channel, ReplyStyle style,
                         Statistics& statistics, Pacer* pacer)
    : channel_(channel),
      encoder_(style),
      statistics_(statistics),
      answered_(statistics),
      pacer_(pacer),
      buffer_(std::make_unique_for_overwrite<char[]>(kOutputBytes)) {}

bool ReplySender::Flush() { return FlushBefore(/*more=*/false); }

bool ReplySender::FlushBefore(bool more) {
  if (size_ > 0 && ok_) ok_ = channel_.Send({buffer_.get(), size_}, more);
  size_ = 0;
  CountAnswered();
  return ok_;
}

void ReplySender::CountAnswered() {
  if (ok_) {
    // The channel has looked at the clock when it sent the replies.
    answered_.CountSent(channel_.last_progress());
  } else {
    answered_.Drop();
  }
}

void ReplySender::NoteAnswered(const Request& request, bool succeeded) {
  answered_.Add(request, succeeded);
  if (answered_.full()) Flush();
}

void ReplySender::Abort() {
  ok_ = false;
  size_ = 0;
  channel_.Abort();
}

char* ReplySender::Reserve(size_t n) {
  if (kOutputBytes - size_ < n) Flush();
  return buffer_.get() + size_;
}

void ReplySender::Success(const Request& request) {
  if (request.type == NBD_CMD_WRITE) {
    statistics_.bytes_written += request.length;
  }
  if (IsPaced(request)) {
    pacer_->Hold({request});
  } else {
    Send({request});
  }
}

void ReplySender::Send(const Pacer::Held& held) {
  if (held.failure.has_value()) {
    const Pacer::Failure& failure = *held.failure;
    SendError(held.request, failure.error, failure.sentence, failure.offset);
  } else {
    Commit(encoder_.EncodeSuccess(Reserve(kMaxReplyBytes), held.request));
    NoteAnswered(held.request);
  }
}

void ReplySender::Error(const Request& request, NbdError error,
                        absl::string_view sentence) {
  Fail(request, error, sentence, std::nullopt);
}

void ReplySender::ErrorAt(const Request& request, NbdError error,
                          absl::string_view sentence, uint64_t offset) {
  Fail(request, error, sentence, offset);
}

void ReplySender::Fail(const Request& request, NbdError error,
                       absl::string_view sentence,
                       std::optional<uint64_t> offset) {
  ++statistics_.errors;
  if (IsPaced(request)) {
    pacer_->Hold(
        {request, Pacer::Failure{error, std::string(sentence), offset}});
  } else {
    SendError(request, error, sentence, offset);
  }
}

void ReplySender::SendError(const Request& request, NbdError error,
                            absl::string_view sentence,
                            std::optional<uint64_t> offset) {
  char* out = Reserve(kMaxReplyBytes);
  Commit(offset.has_value()
             ? encoder_.EncodeErrorAt(out, request, error, sentence, *offset)
             : encoder_.EncodeError(out, request, error, sentence));
  NoteAnswered(request, /*succeeded=*/false);
}

void ReplySender::BlockStatus(const Request& request, uint32_t context_id,
                              absl::Span<const StatusDescriptor> descriptors) {
  Commit(encoder_.EncodeBlockStatus(
      Reserve(encoder_.block_status_bytes(descriptors.size())), request,
      context_id, descriptors));
  NoteAnswered(request);
}

char* ReplySender::ReserveData(size_t length) {
  return Reserve(encoder_.data_header_bytes() + length) +
         encoder_.data_header_bytes();
}

void ReplySender::CommitData(const Request& request, uint64_t offset,
                             size_t length, bool done) {
  if (!encoder_.fragments(request)) {
    CommitChunk(request, offset, length, done);
    return;
  }
  const char* data = buffer_.get() + size_ + encoder_.data_header_bytes();
  for (size_t position = 0; position < length;) {
    const ZeroRun run =
        FindZeroBlocks(offset + position, {data + position, length - position});
    if (run.before > 0) {
      const uint64_t from = offset + position;
      // The chunk of the hole before takes less room than its zeroes did.
      char* place = ReserveData(run.before);
      if (place != data + position) {
        std::memmove(place, data + position, run.before);
      }
      position += run.before;
      CommitChunk(request, from, run.before, done && position == length);
    }
    if (run.length > 0) {
      const uint64_t from = offset + position;
      position += run.length;
      Hole(request, from, run.length, done && position == length);
    }
  }
}

void ReplySender::CommitChunk(const Request& request, uint64_t offset,
                              size_t length, bool done) {
  char* data = encoder_.EncodeDataHeader(buffer_.get() + size_, request, offset,
                                         static_cast<uint32_t>(length), done);
  Commit(data + length);
  statistics_.bytes_read += length;
  if (done) NoteAnswered(request);
}

void ReplySender::Data(const Request& request, uint64_t offset,
                       absl::Span<const char> bytes, bool done) {
  if (!encoder_.fragments(request)) {
    DataChunk(request, offset, bytes, done);
    return;
  }
  while (!bytes.empty()) {
    const ZeroRun run = FindZeroBlocks(offset, bytes);
    const bool is_last = run.before == bytes.size();
    if (run.before > 0) {
      DataChunk(request, offset, bytes.first(run.before), done && is_last);
      offset += run.before;
      bytes.remove_prefix(run.before);
    }
    if (run.length > 0) {
      Hole(request, offset, run.length, done && run.length == bytes.size());
      offset += run.length;
      bytes.remove_prefix(run.length);
    }
  }
}

void ReplySender::DataChunk(const Request& request, uint64_t offset,
                            absl::Span<const char> bytes, bool done) {
  if (bytes.size() <= kCopyBytes) {
    std::memcpy(ReserveData(bytes.size()), bytes.data(), bytes.size());
    CommitChunk(request, offset, bytes.size(), done);
    return;
  }
  Commit(encoder_.EncodeDataHeader(Reserve(kMaxReplyBytes), request, offset,
                                   static_cast<uint32_t>(bytes.size()), done));
  iovec pieces[] = {{buffer_.get(), size_},
                    {const_cast<char*>(bytes.data()), bytes.size()}};
  if (ok_) ok_ = channel_.Send(absl::MakeSpan(pieces));
  size_ = 0;
  statistics_.bytes_read += bytes.size();
  if (done) NoteAnswered(request);
  CountAnswered();
}

void ReplySender::Hole(const Request& request, uint64_t offset, uint64_t length,
                       bool done) {
  Commit(encoder_.EncodeHole(Reserve(kMaxReplyBytes), request, offset,
                             static_cast<uint32_t>(length), done));
  statistics_.bytes_read += length;
  if (done) NoteAnswered(request);
}

void ReplySender::BeginData(const Request& request) {
  Commit(encoder_.EncodeDataHeader(Reserve(kMaxReplyBytes), request,
                                   request.offset,
                                   static_cast<uint32_t>(request.length),
                                   /*done=*/false));
}

char* ReplySender::ReservePiece(size_t length) { return Reserve(length); }

void ReplySender::CommitPiece(size_t length) {
  size_ += length;
  statistics_.bytes_read += length;
}

size_t ReplySender::SendFilePiece(int file, uint64_t offset, size_t length) {
  if (!FlushBefore(/*more=*/true)) return 0;
  const size_t sent = channel_.SendFile(file, offset, length);
  statistics_.bytes_read += sent;
  statistics_.bytes_sent_by_sendfile += sent;
  return sent;
}

void ReplySender::EndData(const Request& request) {
  Commit(encoder_.EncodeDone(Reserve(kMaxReplyBytes), request));
  NoteAnswered(request);
}

}  // namespace nbdinetd
