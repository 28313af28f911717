// The second half of Transmission: what comes back, and how it is answered.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "protocol/nbd_error.h"
#include "transmission/transmission.h"

namespace nbdinetd {
namespace {

// A status descriptor's length has 32 bits, and should be a multiple of 512.
constexpr uint64_t kMaxDescriptorLength = 0xfffffe00;

// What a block status may take for the next one not to go to a worker. Should
// that one be slow, it holds up what comes meanwhile, once.
constexpr absl::Duration kQuickBlockStatus = absl::Milliseconds(1);

// The length of the content chunk that starts at `offset` of a read that goes
// to `end`. "the server SHOULD use chunks with lengths and offsets as an
// integer multiple of 512 bytes" (NBD_CMD_READ, structured replies): an
// unaligned read is aligned from its second chunk on.
size_t ChunkLength(uint64_t offset, uint64_t end) {
  return std::min<uint64_t>(end - offset, kPieceBytes - offset % 512);
}

std::vector<StatusDescriptor> Descriptors(absl::Span<const Extent> extents,
                                          uint64_t limit) {
  std::vector<StatusDescriptor> descriptors;
  descriptors.reserve(extents.size());
  for (const Extent& extent : extents) {
    const uint64_t length = std::min(extent.length_bytes, limit);
    descriptors.push_back(
        {static_cast<uint32_t>(std::min(length, kMaxDescriptorLength)),
         extent.hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0});
    // What follows an extent that had to be cut would be misplaced.
    if (length > kMaxDescriptorLength) break;
  }
  return descriptors;
}

}  // namespace

uint64_t Transmission::SendCachedFragments(const Request& request,
                                           uint64_t offset) {
  const uint64_t end = request.offset + request.length;
  while (offset < end && replies_.ok()) {
    const size_t piece = ChunkLength(offset, end);
    char* data = replies_.ReserveData(piece);
    if (target_.ReadCached(offset, {data, piece}) != piece) break;
    replies_.CommitData(request, offset, piece, offset + piece == end);
    offset += piece;
  }
  return offset;
}

void Transmission::HandleFinished() {
  if (workers_.pending() == 0) return;
  for (const std::unique_ptr<Task>& task : workers_.TakeFinished()) {
    if (replies_.ok()) AnswerTask(*task);
  }
}

void Transmission::AnswerTask(const Task& task) {
  const Request& request = task.request;
  if (task.error != 0) {
    Fail(request, task.error,
         request.type == NBD_CMD_READ ? task.error_offset : request.offset);
  } else if (request.type == NBD_CMD_READ) {
    if (task.data != nullptr) {
      replies_.Data(request, request.offset,
                    {task.data.get(), static_cast<size_t>(request.length)},
                    /*done=*/true);
    } else if (replies_.encoder().fragments(request)) {
      SendFragments(request);
    } else {
      SendOneChunk(request);
    }
  } else if (request.type == NBD_CMD_BLOCK_STATUS) {
    block_status_is_quick_ = SteadyNow() - task.started < kQuickBlockStatus;
    const uint64_t limit = request.has(NBD_CMD_FLAG_REQ_ONE)
                               ? request.length
                               : std::numeric_limits<uint64_t>::max();
    replies_.BlockStatus(request, kBaseAllocationId,
                         Descriptors(task.extents, limit));
  } else {
    if (request.type == NBD_CMD_WRITE) {
      statistics_.bytes_written += request.length;
    }
    replies_.Success(request);
  }
}

std::string Transmission::FailureSentence(const Request& request,
                                          StorageError error) {
  const absl::string_view reason =
      error.truncated
          ? "the file has been truncated, and ends before the export does"
          : absl::NullSafeStringView(strerrordesc_np(error.number));
  return absl::StrCat(CommandName(request.type), " of ", request.length,
                      " bytes at offset ", request.offset, " failed: ", reason);
}

void Transmission::Fail(const Request& request, StorageError storage_error,
                        uint64_t offset) {
  const std::string sentence = FailureSentence(request, storage_error);
  // That zeroes can't be had faster than by writing them is an answer; of
  // anything else "SHOULD NOT return NBD_ENOTSUP" ("Error values") holds.
  const bool is_answer =
      storage_error == EOPNOTSUPP && request.has(NBD_CMD_FLAG_FAST_ZERO);
  if (!is_answer) LogStorageError(request, storage_error);
  const NbdError error =
      is_answer ? NBD_ENOTSUP : NbdErrorOf(storage_error.number);
  if (request.type == NBD_CMD_READ) {
    replies_.ErrorAt(request, error, sentence, offset);
  } else {
    replies_.Error(request, error, sentence);
  }
}

void Transmission::LogStorageError(const Request& request, StorageError error) {
  if (++storage_errors_logged_ > kMaxStorageErrorsLogged) return;
  log_.Error(absl::StrCat(Quoted(target_.path()), ": ",
                          FailureSentence(request, error),
                          storage_errors_logged_ == kMaxStorageErrorsLogged
                              ? "; further errors are only counted"
                              : ""));
}

// A longer read, in content chunks; its data has just been read into the page
// cache. Should some of it be gone again, reading it here holds up what is
// behind it, which is better than to read in circles.
void Transmission::SendFragments(const Request& request) {
  const uint64_t end = request.offset + request.length;
  uint64_t offset = request.offset;
  while (offset < end && replies_.ok()) {
    const size_t piece = ChunkLength(offset, end);
    char* data = replies_.ReserveData(piece);
    size_t good = 0;
    if (const StorageError error = target_.Read(offset, {data, piece}, &good)) {
      Fail(request, error, offset + good);
      return;
    }
    replies_.CommitData(request, offset, piece, offset + piece == end);
    offset += piece;
  }
}

// A longer read in one content chunk, or as a simple reply.
void Transmission::SendOneChunk(const Request& request, bool as_file) {
  replies_.BeginData(request);
  const uint64_t end = request.offset + request.length;
  uint64_t offset = request.offset;
  StorageError error;
  uint64_t error_offset = 0;
  if (as_file) {
    // What doesn't go this way is read below, and the reason found there.
    const Export::Location place = target_.Locate(offset);
    offset += replies_.SendFilePiece(place.fd, place.offset,
                                     static_cast<size_t>(request.length));
  }
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
      LogStorageError(request, error);
      End(ExitStatus::kSystem, "a read failed in the middle of its reply");
      replies_.Abort();
      return;
    }
    // "it MUST use padding bytes which SHOULD be zero" (structured replies).
    if (error != 0) std::memset(data + good, 0, piece - good);
    replies_.CommitPiece(piece);
    offset += piece;
  }
  if (error != 0) {
    Fail(request, error, error_offset);
  } else {
    replies_.EndData(request);
  }
}

}  // namespace nbdinetd
