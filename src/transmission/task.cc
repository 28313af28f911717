#include "transmission/task.h"

#include <algorithm>
#include <cerrno>

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
  task.error_offset = request.offset;
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

int RunWriteZeroes(Export& target, const Request& request) {
  return target.Zero(
      request.offset, request.length,
      request.has(NBD_CMD_FLAG_NO_HOLE) ? Export::Hole::kForbidden
                                        : Export::Hole::kAllowed,
      request.has(NBD_CMD_FLAG_FAST_ZERO) ? Export::Speed::kFastOnly
                                          : Export::Speed::kAny);
}

}  // namespace

void RunTask(Export& target, Task& task) {
  const Request& request = task.request;
  // A trim or a zeroing with FUA is followed by a flush: fallocate() has no
  // durable variant.
  const auto then_flush_if_fua = [&](int error) {
    return error == 0 && request.has(NBD_CMD_FLAG_FUA) ? target.Flush() : error;
  };
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
          then_flush_if_fua(target.Trim(request.offset, request.length));
      return;
    case NBD_CMD_WRITE_ZEROES:
      task.error = then_flush_if_fua(RunWriteZeroes(target, request));
      return;
    case NBD_CMD_CACHE:
      task.error = target.Prefetch(request.offset, request.length);
      return;
    case NBD_CMD_BLOCK_STATUS:
      // All at once, with one more to detect that there are too many: growing
      // would need both buffers for a moment.
      task.extents.reserve(task.max_extents() + 1);
      task.error = target.FindExtents(request.offset, request.length,
                                      task.max_extents(), &task.extents);
      return;
    default:
      task.error = EINVAL;
  }
}

}  // namespace nbdinetd
