// A request that may have to wait for the storage, as a value that is handed
// to a worker and comes back with its result.
#ifndef NBDINETD_TRANSMISSION_TASK_H_
#define NBDINETD_TRANSMISSION_TASK_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "base/limits.h"
#include "export/export.h"
#include "protocol/request.h"
#include "transmission/buffer_pool.h"

namespace nbdinetd {

struct Task {
  // What the task holds is taken from `pool`, which outlives it.
  explicit Task(BufferPool& pool) : buffers(pool), extents(&pool) {}

  BufferPool& buffers;

  // In. For a read, `request` may be the rest of one that was begun inline.
  Request request;
  // A read of what the task carries, for which the storage has been asked by
  // Export::Prefetch().
  bool begun = false;
  // Since when it waits for a thread.
  absl::Time started;
  // A write's payload is with the task; false when it has been written already
  // and only has to become durable.
  bool carries_payload = false;

  // In and out: the payload of a write; the bytes of a read of no more than
  // kPieceBytes. A longer read only makes sure that they are in the page
  // cache, so that memory does not grow with the request.
  BufferPool::Buffer data;

  // Out.
  StorageError error;
  uint64_t error_offset = 0;  // where it struck, inside the request
  // Of a block status: the last one is perhaps longer than the request.
  Extents extents;

  // Whether `data` holds, or will hold, the bytes of the request.
  bool has_data() const {
    return carries_payload ||
           (request.type == NBD_CMD_READ && request.length <= kPieceBytes);
  }
  // How many extents a block status tells at most.
  size_t max_extents() const {
    return request.has(NBD_CMD_FLAG_REQ_ONE) ? 1 : kMaxDescriptors;
  }
  // How much memory the task takes at most, beside its own.
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

// Carries the task out, waiting for the storage as long as it takes. Any
// thread; the request is validated, and not a disconnect.
void RunTask(Export& target, Task& task);

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_TASK_H_
