#include "transmission/write_receiver.h"

#include <algorithm>

#include "absl/types/span.h"
#include "base/limits.h"
#include "base/page_size.h"
#include "protocol/nbd_error.h"

namespace nbdinetd {
namespace {

// A payload longer than kPieceBytes is written in pieces of at least this
// length. They end at a page of the file, so that no page is written twice.
constexpr size_t kMinWritePiece = 64 << 10;

}  // namespace

void WriteReceiver::Begin(const Request& request, const Verdict& verdict) {
  write_ = PendingWrite{
      .request = request, .error = verdict.error, .sentence = verdict.sentence};
}

bool WriteReceiver::Continue() {
  PendingWrite& write = *write_;
  if (write.error != NBD_SUCCESS) {
    Discard(write);
  } else if (write.request.length <= kPieceBytes) {
    return WriteWhole(write.request);
  } else if (!WritePiece(write)) {
    return false;
  }
  if (write.consumed < write.request.length) return !channel_.input().empty();
  Finish(write);
  write_.reset();
  return true;
}

void WriteReceiver::Discard(PendingWrite& write) {
  const size_t part = std::min<uint64_t>(write.request.length - write.consumed,
                                         channel_.input().size());
  channel_.Consume(part);
  write.consumed += part;
}

// Writes a payload that fits into the input buffer, once all of it is received.
bool WriteReceiver::WriteWhole(const Request& request) {
  const auto length = static_cast<size_t>(request.length);
  if (channel_.input().size() < length) {
    channel_.MakeRoomFor(length);
    return false;
  }
  const absl::Span<const char> payload(channel_.input().data(), length);
  // A durable write waits for the storage, and so does a write to a part of an
  // uncached page.
  if (request.has(NBD_CMD_FLAG_FUA) ||
      target_.WriteWouldWait(request.offset, request.length)) {
    deferred_.StartWrite(request, payload);
  } else if (const int error =
                 target_.Write(request.offset, payload, /*durable=*/false)) {
    failures_.Answer(request, error, request.offset);
  } else {
    replies_.Success(request);
  }
  channel_.Consume(length);
  write_.reset();
  return true;
}

bool WriteReceiver::HasToWait() const {
  return target_.writes_busy() && deferred_.pending() > 0;
}

// Writes a piece of a longer payload. False when more input is needed first.
bool WriteReceiver::WritePiece(PendingWrite& write) {
  write.waits_for_task = HasToWait();
  if (write.waits_for_task) return false;
  const uint64_t left = write.request.length - write.consumed;
  const uint64_t offset = write.request.offset + write.consumed;
  size_t piece = std::min<uint64_t>(
      {left, channel_.input().size(), uint64_t{kPieceBytes}});
  if (piece < left) {
    piece -= std::min<uint64_t>(piece, (offset + piece) % PageBytes());
    if (piece < kMinWritePiece) {
      channel_.MakeRoomFor(kPieceBytes);
      return false;
    }
  }
  if (const int error = target_.Write(offset, {channel_.input().data(), piece},
                                      /*durable=*/false)) {
    failures_.LogError(write.request, error);
    write.error = NbdErrorOf(error);
    write.sentence = FailureReplies::Sentence(write.request, error);
  }
  channel_.Consume(piece);
  write.consumed += piece;
  return true;
}

void WriteReceiver::Finish(const PendingWrite& write) {
  if (write.error != NBD_SUCCESS) {
    replies_.Error(write.request, write.error, write.sentence);
  } else if (write.request.has(NBD_CMD_FLAG_FUA)) {
    deferred_.Start(write.request);
  } else {
    replies_.Success(write.request);
  }
}

}  // namespace nbdinetd
