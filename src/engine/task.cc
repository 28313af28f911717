#include "engine/task.h"

#include <algorithm>
#include <cstring>

namespace nbdinetd {
namespace {

// Holes below this are answered as data: a chunk header would cost as much.
constexpr uint64_t kMinHoleBytes = 4096;

// Cuts and merges the file's extents into those of a read: they cover exactly
// [0, length), and no hole is too small to be worth a chunk.
std::vector<Extent> ReadExtents(const std::vector<Extent>& found,
                                uint64_t length) {
  std::vector<Extent> extents;
  uint64_t covered = 0;
  const auto append = [&](uint64_t bytes, bool hole) {
    if (bytes == 0) return;
    if (!extents.empty() && extents.back().hole == hole) {
      extents.back().length_bytes += bytes;
    } else {
      extents.push_back({bytes, hole});
    }
    covered += bytes;
  };
  for (const Extent& extent : found) {
    const uint64_t bytes = std::min(extent.length_bytes, length - covered);
    append(bytes, extent.hole && bytes >= kMinHoleBytes);
  }
  append(length - covered, false);
  return extents;
}

// Reads [offset, offset+length) into `out`, or, without `out`, just into the
// page cache.
int ReadData(Export& target, Task& task, uint64_t offset, uint64_t length,
             char* out) {
  std::unique_ptr<char[]> scratch;
  if (out == nullptr) {
    target.Prefetch(offset, length);
    scratch = std::make_unique_for_overwrite<char[]>(
        std::min<uint64_t>(length, kPieceBytes));
  }
  while (length > 0) {
    const size_t piece = std::min<uint64_t>(length, kPieceBytes);
    size_t done = 0;
    char* place = out != nullptr ? out : scratch.get();
    if (const int error =
            target.Read(offset, absl::MakeSpan(place, piece), &done)) {
      task.error_offset = offset + done;
      return error;
    }
    offset += piece;
    length -= piece;
    if (out != nullptr) out += piece;
  }
  return 0;
}

int RunRead(Export& target, Task& task) {
  const Request& request = task.request;
  task.error_offset = request.offset;
  std::vector<Extent> found;
  // Where the holes are is only worth knowing: if that fails, all is data.
  if (!task.begun && target.may_have_holes() &&
      target.Extents(request.offset, request.length, kMaxReadExtents, &found) !=
          0) {
    found.clear();
  }
  task.extents = ReadExtents(found, request.length);
  if (task.has_data()) {
    task.data = std::make_unique_for_overwrite<char[]>(
        static_cast<size_t>(request.length));
  }
  uint64_t position = 0;
  for (const Extent& extent : task.extents) {
    char* out = task.data == nullptr ? nullptr : task.data.get() + position;
    if (!extent.hole) {
      if (const int error = ReadData(target, task, request.offset + position,
                                     extent.length_bytes, out)) {
        return error;
      }
    } else if (out != nullptr && !task.report_holes) {
      std::memset(out, 0, extent.length_bytes);
    }
    position += extent.length_bytes;
  }
  return 0;
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
  return target.Zero(request.offset, request.length,
                     request.has(NBD_CMD_FLAG_NO_HOLE)
                         ? Export::Hole::kForbidden
                         : Export::Hole::kAllowed,
                     request.has(NBD_CMD_FLAG_FAST_ZERO)
                         ? Export::Speed::kFastOnly
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
      task.error = target.Extents(
          request.offset, request.length,
          request.has(NBD_CMD_FLAG_REQ_ONE) ? 1 : kMaxDescriptors,
          &task.extents);
      return;
    default:
      task.error = EINVAL;
  }
}

}  // namespace nbdinetd
