#include "transmission/read_replies.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"

namespace nbdinetd {
namespace {

// sendfile(2) may send reads of at least this length. For shorter ones, its
// system call costs more than a copy into the output buffer.
constexpr uint64_t kMinSendFile = 128 << 10;

// The length of the content chunk that starts at `offset` of a read that goes
// to `end`. "the server SHOULD use chunks with lengths and offsets as an
// integer multiple of 512 bytes" (NBD_CMD_READ, structured replies): an
// unaligned read is aligned from its second chunk on.
size_t ChunkLength(uint64_t offset, uint64_t end) {
  return std::min<uint64_t>(end - offset, kPieceBytes - offset % 512);
}

}  // namespace

std::optional<Request> ReadReplies::AnswerCached(const Request& request) {
  if (request.length == 0) {
    replies_.Success(request);
    return std::nullopt;
  }
  // "A server MUST NOT send a chunk where any variable-length portion of the
  // chunk is larger than any advertised maximum payload size". With
  // NBD_CMD_FLAG_DF, no read is longer.
  const bool one_chunk = request.length <= max_chunk_bytes_ ||
                         !replies_.encoder().fragments(request);
  return one_chunk && replies_.sends_files() && request.length >= kMinSendFile
             ? AnswerLong(request)
             : AnswerByCopy(request);
}

std::optional<Request> ReadReplies::AnswerLong(const Request& request) {
  const bool timed = ways_.timed();
  const absl::Time begin = replies_.last_progress();
  if (ways_.way() == Way::kSendFile) {
    if (!target_.IsCached(request.offset, request.length)) {
      return AnswerByCopy(request);
    }
    SendOneChunk(request, /*as_file=*/true);
  } else {
    const std::optional<Request> rest = AnswerByCopy(request);
    if (rest.has_value()) return rest;
    if (timed) replies_.Flush();
  }
  ways_.NoteSent(request.length, replies_.last_progress() - begin);
  return std::nullopt;
}

std::optional<Request> ReadReplies::AnswerByCopy(const Request& request) {
  if (request.length <= kPieceBytes) {
    const auto length = static_cast<size_t>(request.length);
    char* data = replies_.ReserveData(length);
    if (target_.ReadCached(request.offset, {data, length}) != length) {
      return request;
    }
    replies_.CommitData(request, request.offset, length, /*done=*/true);
    return std::nullopt;
  }
  if (replies_.encoder().fragments(request)) {
    const uint64_t end = request.offset + request.length;
    const uint64_t sent_to = SendCachedFragments(request);
    if (sent_to == end) return std::nullopt;
    Request rest = request;
    rest.offset = sent_to;
    rest.length = end - sent_to;
    return rest;
  }
  // After the header of the one chunk, all other replies wait for its last
  // byte. All of its bytes must therefore be in the page cache.
  if (!target_.IsCached(request.offset, request.length)) return request;
  SendOneChunk(request);
  return std::nullopt;
}

void ReadReplies::AnswerTask(const Task& task) {
  const Request& request = task.request;
  if (task.data != nullptr) {
    SendData(request, {task.data.get(), static_cast<size_t>(request.length)});
  } else if (replies_.encoder().fragments(request)) {
    SendFragments(request);
  } else {
    SendOneChunk(request);
  }
}

// No chunk is longer than those of other reads, though a task may have read any
// number of bytes.
void ReadReplies::SendData(const Request& request,
                           absl::Span<const char> data) {
  uint64_t offset = request.offset;
  const uint64_t end = offset + data.size();
  do {
    const size_t piece =
        data.size() > kPieceBytes && replies_.encoder().fragments(request)
            ? ChunkLength(offset, end)
            : data.size();
    replies_.Data(request, offset, data.first(piece),
                  /*done=*/piece == data.size());
    data.remove_prefix(piece);
    offset += piece;
  } while (!data.empty() && replies_.ok());
}

uint64_t ReadReplies::SendCachedFragments(const Request& request) {
  const uint64_t end = request.offset + request.length;
  uint64_t offset = request.offset;
  while (offset < end && replies_.ok()) {
    const size_t piece = ChunkLength(offset, end);
    char* data = replies_.ReserveData(piece);
    if (target_.ReadCached(offset, {data, piece}) != piece) break;
    replies_.CommitData(request, offset, piece, offset + piece == end);
    offset += piece;
  }
  return offset;
}

// Answers a longer read in content chunks, after a task has read it into the
// page cache. Pages that are gone again are read here, and the requests behind
// wait: another task might find them gone again, without end.
void ReadReplies::SendFragments(const Request& request) {
  const uint64_t end = request.offset + request.length;
  uint64_t offset = request.offset;
  while (offset < end && replies_.ok()) {
    const size_t piece = ChunkLength(offset, end);
    char* data = replies_.ReserveData(piece);
    size_t good = 0;
    if (const StorageError error = target_.Read(offset, {data, piece}, &good)) {
      failures_.Answer(request, error, offset + good);
      return;
    }
    replies_.CommitData(request, offset, piece, offset + piece == end);
    offset += piece;
  }
}

// Returns how far it came.
uint64_t ReadReplies::SendAsFiles(uint64_t offset, uint64_t end) {
  while (offset < end && replies_.ok()) {
    const std::optional<Export::Location> place =
        target_.Locate(offset, end - offset);
    if (!place.has_value()) break;
    const size_t sent = replies_.SendFilePiece(
        place->fd, place->offset, static_cast<size_t>(place->length));
    offset += sent;
    if (sent < place->length) break;
  }
  return offset;
}

// Answers a longer read in one content chunk, or by a simple reply.
void ReadReplies::SendOneChunk(const Request& request, bool as_file) {
  replies_.BeginData(request);
  const uint64_t end = request.offset + request.length;
  uint64_t offset = request.offset;
  StorageError error;
  uint64_t error_offset = 0;
  // The loop below reads the rest, and finds the error if there is one.
  if (as_file) offset = SendAsFiles(offset, end);
  while (offset < end && replies_.ok()) {
    const size_t piece = std::min<uint64_t>(end - offset, kPieceBytes);
    char* data = replies_.ReservePiece(piece);
    size_t good = 0;
    if (error == 0) {
      error = target_.Read(offset, {data, piece}, &good);
      error_offset = offset + good;
    }
    if (error != 0 && !replies_.encoder().reports_late_errors()) {
      // "If an error occurs while reading after the server has already sent
      // out the reply header ..., the server MUST immediately initiate a hard
      // disconnect" (NBD_CMD_READ, simple replies).
      failures_.LogError(request, error);
      broke_off_ = true;
      replies_.Abort();
      return;
    }
    // "it MUST use padding bytes which SHOULD be zero" (structured replies).
    if (error != 0) std::memset(data + good, 0, piece - good);
    replies_.CommitPiece(piece);
    offset += piece;
  }
  if (error != 0) {
    failures_.Answer(request, error, error_offset);
  } else {
    replies_.EndData(request);
  }
}

}  // namespace nbdinetd
