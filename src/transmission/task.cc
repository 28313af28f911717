#include "transmission/task.h"

#include <algorithm>
#include <cerrno>

#include "absl/functional/function_ref.h"

namespace nbdinetd {
namespace {

// Reads the request's range piece by piece into one buffer, which brings it
// into the page cache.
StorageError ReadIntoCache(Export& target, Task& task) {
  const BufferPool::Buffer piece = task.buffers.Take(kPieceBytes);
  if (piece == nullptr) return ENOMEM;
  const Request& request = task.request;
  target.Prefetch(request.offset, request.length);
  for (uint64_t position = 0; position < request.length;) {
    const auto bytes = static_cast<size_t>(
        std::min<uint64_t>(request.length - position, kPieceBytes));
    size_t done = 0;
    const StorageError error = target.Read(
        request.offset + position, absl::MakeSpan(piece.get(), bytes), &done);
    if (error != 0) {
      task.error_offset = request.offset + position + done;
      return error;
    }
    position += bytes;
  }
  return 0;
}

StorageError RunRead(Export& target, Task& task) {
  const Request& request = task.request;
  if (!task.has_data()) return ReadIntoCache(target, task);
  const auto length = static_cast<size_t>(request.length);
  task.data = task.buffers.Take(length);
  if (task.data == nullptr) return ENOMEM;
  size_t done = 0;
  const StorageError error = target.Read(
      request.offset, absl::MakeSpan(task.data.get(), length), &done);
  task.error_offset += done;
  return error;
}

int RunWrite(Export& target, Task& task) {
  const Request& request = task.request;
  const bool durable = request.has(NBD_CMD_FLAG_FUA);
  if (!task.carries_payload) return durable ? target.Flush() : 0;
  return target.Write(
      request.offset,
      absl::MakeConstSpan(task.data.get(), static_cast<size_t>(request.length)),
      durable);
}

// Calls `carry_out` with the offset and length of each piece of the request's
// range, in order, until one fails; 0 or its errno value. The pieces end at
// multiples of their length, or at the end of the request. The first one has at
// least that length, unless the request ends before, and less than twice.
int RunInPieces(Task& task,
                absl::FunctionRef<int(uint64_t, uint64_t)> carry_out) {
  const uint64_t begin = task.request.offset;
  const uint64_t end = begin + task.request.length;
  const uint64_t piece =
      kTaskPieceBytes *
      (1 + task.request.length / (kTaskPieceBytes * kMaxTaskPieces));
  for (uint64_t at = begin;;) {
    const uint64_t piece_end =
        std::min(end, (at + piece - 1) / piece * piece + piece);
    if (task.should_end()) {
      task.was_cut_short = true;
      return 0;
    }
    task.error_offset = at;
    if (const int error = carry_out(at, piece_end - at)) {
      task.was_cut_short = error == ECANCELED;
      return task.was_cut_short ? 0 : error;
    }
    if (piece_end == end) return 0;
    at = piece_end;
  }
}

// The error of any call but the first one of a fast zeroing: NBD_ENOTSUP would
// say that nothing has changed.
int LaterError(const Request& request, int error) {
  return error == EOPNOTSUPP && request.has(NBD_CMD_FLAG_FAST_ZERO) ? EIO
                                                                    : error;
}

int RunWriteZeroes(Export& target, Task& task) {
  const Request& request = task.request;
  const Export::Hole hole = request.has(NBD_CMD_FLAG_NO_HOLE)
                                ? Export::Hole::kForbidden
                                : Export::Hole::kAllowed;
  Export::Speed speed = request.has(NBD_CMD_FLAG_FAST_ZERO)
                            ? Export::Speed::kFastOnly
                            : Export::Speed::kAny;
  return RunInPieces(task, [&](uint64_t offset, uint64_t length) {
    const int error = target.Zero(offset, length, hole, speed, task.cut_short);
    const bool is_first = offset == request.offset;
    speed = Export::Speed::kAny;
    return is_first ? error : LaterError(request, error);
  });
}

// A trim or a zeroing with FUA is followed by a flush: fallocate() has no
// durable variant.
int FlushIfFua(Export& target, Task& task, int error) {
  if (error != 0 || task.was_cut_short || !task.request.has(NBD_CMD_FLAG_FUA)) {
    return error;
  }
  task.error_offset = task.request.offset;
  return LaterError(task.request, target.Flush());
}

}  // namespace

void RunTask(Export& target, Task& task) {
  const Request& request = task.request;
  task.error_offset = request.offset;
  switch (request.type) {
    case NBD_CMD_READ:
      task.error = RunRead(target, task);
      return;
    case NBD_CMD_WRITE:
      task.error = RunWrite(target, task);
      return;
    case NBD_CMD_FLUSH:
      task.error = target.Flush();
      return;
    case NBD_CMD_TRIM:
      task.error =
          FlushIfFua(target, task,
                     RunInPieces(task, [&](uint64_t offset, uint64_t length) {
                       return target.Trim(offset, length);
                     }));
      return;
    case NBD_CMD_WRITE_ZEROES:
      task.error = FlushIfFua(target, task, RunWriteZeroes(target, task));
      return;
    case NBD_CMD_CACHE:
      // One call for any length: the kernel reads no more than it reads ahead.
      task.error = target.Prefetch(request.offset, request.length);
      return;
    case NBD_CMD_BLOCK_STATUS:
      // All at once, with one more to detect that there are too many: growing
      // would need both buffers for a moment.
      task.extents.reserve(task.max_extents() + 1);
      task.error =
          target.FindExtents(request.offset, request.length, task.max_extents(),
                             task.cut_short, &task.extents);
      return;
    default:
      task.error = EINVAL;
  }
}

}  // namespace nbdinetd
