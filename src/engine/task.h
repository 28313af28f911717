// A request that may have to wait for the storage, as a value that is handed
// to a worker and comes back with its result.
#ifndef NBDINETD_ENGINE_TASK_H_
#define NBDINETD_ENGINE_TASK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/limits.h"
#include "absl/time/time.h"
#include "export/export.h"
#include "protocol/request.h"

namespace nbdinetd {

struct Task {
  // In. For a read, `request` may be the rest of one that was begun inline.
  Request request;
  // A read may answer holes as such; otherwise their zeroes are spelled out.
  bool report_holes = false;
  // A read of what the task carries, for which the storage has been asked by
  // Export::Prefetch(); where its holes are isn't asked any more.
  bool begun = false;
  // Since when it waits for a thread.
  absl::Time started;
  // A write's payload is with the task; false when it has been written already
  // and only has to become durable.
  bool carries_payload = false;

  // In and out: the payload of a write; the bytes of a read of no more than
  // kPieceBytes. A longer read only makes sure that they are in the page
  // cache, so that memory does not grow with the request.
  std::unique_ptr<char[]> data;

  // Out.
  int error = 0;              // errno
  uint64_t error_offset = 0;  // where it struck, inside the request
  // Of a read: what is hole and what is data, covering the request. Of a block
  // status: the extents, the last one perhaps longer than the request.
  std::vector<Extent> extents;

  // Whether `data` holds, or will hold, the bytes of the request.
  bool has_data() const {
    return carries_payload ||
           (request.type == NBD_CMD_READ && request.length <= kPieceBytes);
  }
  // How much memory the task takes at most, beside its own.
  size_t memory_bytes() const {
    if (request.type == NBD_CMD_READ) {
      return (has_data() ? static_cast<size_t>(request.length)
                         : kPieceBytes) +  // to read through
             (report_holes ? kMaxReadExtents * sizeof(Extent) : 0);
    }
    if (has_data()) return static_cast<size_t>(request.length);
    return request.type == NBD_CMD_BLOCK_STATUS
               ? kMaxDescriptors * sizeof(Extent)
               : 0;
  }
};

// Carries the task out, waiting for the storage as long as it takes. Any
// thread; the request is validated, and not a disconnect.
void RunTask(Export& target, Task& task);

}  // namespace nbdinetd

#endif  // NBDINETD_ENGINE_TASK_H_
