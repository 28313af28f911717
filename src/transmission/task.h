// A request that may wait for the storage. The transmission thread gives it to
// a worker, and gets it back with its result.
#ifndef NBDINETD_TRANSMISSION_TASK_H_
#define NBDINETD_TRANSMISSION_TASK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/limits.h"
#include "export/export.h"
#include "protocol/nbd.h"
#include "protocol/request.h"
#include "transmission/buffer_pool.h"

namespace nbdinetd {

// A write with a long payload, which goes to the export in parts. The
// transmission thread owns it; tasks only keep it alive.
struct LongWrite {
  Request request;
  // Not NBD_SUCCESS: the write was refused, or a part of it has failed.
  NbdError error = NBD_SUCCESS;
  std::string sentence;
  // The parts that are tasks, and 1 while there may be more of them.
  size_t unfinished = 1;
};

struct Task {
  // `pool` holds the task's memory, and must outlive it.
  explicit Task(BufferPool& pool) : buffers(pool), extents(&pool) {}

  BufferPool& buffers;

  // In. For a read, `request` may be the rest of one that was begun inline.
  Request request;
  // All bytes of a read go to `data`, whatever its length: the page cache
  // doesn't keep them.
  bool whole = false;
  // Export::Prefetch() or ReadCached() has started this read of `data`.
  bool begun = false;
  // Export::begins_reads(): it is carried out even if the client is gone.
  bool must_run = false;
  // Borrowed; nullptr: never. Once it is true, a trim or zeroing ends before
  // its next piece, or before it begins, and a block status once it has an
  // extent.
  const std::atomic<bool>* cut_short = nullptr;
  // Borrowed; nullptr: none. It is called before each piece.
  const std::function<void()>* between_pieces = nullptr;
  // The write of which this one is a part; usually nullptr.
  std::shared_ptr<LongWrite> part_of;
  // When it was handed to the workers.
  absl::Time started;
  // `data` is a write's payload. False for a write whose payload is in the page
  // cache, and only needs a flush.
  bool carries_payload = false;

  // In and out: the payload of a write, or the bytes of a read of up to
  // kPieceBytes. A longer read that isn't `whole` only goes into the page
  // cache, so that memory doesn't grow with the request.
  BufferPool::Buffer data;

  // Out.
  StorageError error;
  // The first byte of a read, or the first piece of a trim or zeroing, that
  // failed; otherwise the request's offset.
  uint64_t error_offset = 0;
  // `cut_short` has ended it, and no piece has failed.
  bool was_cut_short = false;
  // Of a block status. The last one may end behind the request.
  Extents extents;

  bool should_end() const {
    if (between_pieces != nullptr) (*between_pieces)();
    return cut_short != nullptr && cut_short->load(std::memory_order_relaxed);
  }
  // Whether `data` holds, or will hold, the bytes of the request.
  bool has_data() const {
    return carries_payload || (request.type == NBD_CMD_READ &&
                               (whole || request.length <= kPieceBytes));
  }
  // The most extents that a block status returns.
  size_t max_extents() const {
    return request.has(NBD_CMD_FLAG_REQ_ONE) ? 1 : kMaxDescriptors;
  }
  // The most bytes that the task takes from the pool.
  size_t memory_bytes() const {
    if (has_data()) {
      return BufferPool::SizeFor(static_cast<size_t>(request.length));
    }
    if (request.type == NBD_CMD_READ) return kPieceBytes;  // to read through
    return request.type == NBD_CMD_BLOCK_STATUS
               ? BufferPool::SizeFor((max_extents() + 1) * sizeof(Extent))
               : 0;
  }
};

// Carries the task out; may wait for the storage without limit. The request is
// valid, and not NBD_CMD_DISC. Any thread.
void RunTask(Export& target, Task& task);

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_TASK_H_
