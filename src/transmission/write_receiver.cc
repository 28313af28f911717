#include "transmission/write_receiver.h"

#include <algorithm>

#include "absl/types/span.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

// A payload longer than kPieceBytes is written in pieces of at least this
// length.
constexpr size_t kMinWritePiece = 64 << 10;

// Those pieces end at multiples of this in the file: no page is written twice,
// and the kernel can put each piece into few large folios of its page cache,
// which begin at multiples of their length.
constexpr size_t kWritePieceAlignment = 128 << 10;

}  // namespace

void WriteReceiver::Begin(const Request& request, const Verdict& verdict) {
  write_ = PendingWrite{.own = {request, verdict.error, verdict.sentence},
                        .shared = nullptr};
}

bool WriteReceiver::Continue() {
  PendingWrite& write = *write_;
  const uint64_t length = write.own.request.length;
  if (write.state().error != NBD_SUCCESS) {
    Discard(write);
  } else if (length <= kPieceBytes) {
    return WriteWhole(write.own.request);
  } else if (!WritePiece(write)) {
    return false;
  }
  if (write.consumed < length) return !channel_.input().empty();
  deferred_.EndPart(write.state());
  write_.reset();
  return true;
}

void WriteReceiver::Discard(PendingWrite& write) {
  const size_t part = std::min<uint64_t>(
      write.own.request.length - write.consumed, channel_.input().size());
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

// Writes a piece of a longer payload. False when more input is needed first, or
// the piece has to wait for a task.
bool WriteReceiver::WritePiece(PendingWrite& write) {
  // A write here would wait in the kernel, and all other requests with it.
  const bool busy = target_.writes_busy();
  if (busy && deferred_.full()) return false;
  const Request& request = write.own.request;
  const uint64_t left = request.length - write.consumed;
  const uint64_t offset = request.offset + write.consumed;
  size_t piece = std::min<uint64_t>(
      {left, channel_.input().size(), uint64_t{kPieceBytes}});
  if (piece < left) {
    piece -= std::min<uint64_t>(piece, (offset + piece) % kWritePieceAlignment);
    if (piece < kMinWritePiece) {
      channel_.MakeRoomFor(kPieceBytes);
      return false;
    }
  }
  if (busy) {
    StartPart(write, offset, piece);
  } else if (const int error =
                 target_.Write(offset, {channel_.input().data(), piece},
                               /*durable=*/false)) {
    deferred_.FailPart(write.state(), error);
  }
  channel_.Consume(piece);
  write.consumed += piece;
  return true;
}

void WriteReceiver::StartPart(PendingWrite& write, uint64_t offset,
                              size_t bytes) {
  if (write.shared == nullptr) {
    write.shared = std::make_shared<LongWrite>(write.own);
  }
  Request part = write.own.request;
  // The flush behind the last part makes all of them durable.
  part.flags = static_cast<uint16_t>(part.flags & ~NBD_CMD_FLAG_FUA);
  part.offset = offset;
  part.length = bytes;
  deferred_.StartWrite(part, {channel_.input().data(), bytes}, write.shared);
}

}  // namespace nbdinetd
