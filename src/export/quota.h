// An export that may occupy a limited number of bytes of storage. Threads: see
// Export.
#ifndef NBDINETD_EXPORT_QUOTA_H_
#define NBDINETD_EXPORT_QUOTA_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "absl/types/span.h"
#include "export/block_map.h"
#include "export/layer.h"

namespace nbdinetd {

class Quota : public Layer {
 public:
  struct Limit {
    uint64_t max_bytes;
    uint64_t block_bytes;  // what is counted at once, a power of 2
    // Whether zeroes for which a hole is allowed, and trims, give storage back.
    bool has_holes;
  };
  // `stored` has a bit for each block; those that are set occupy storage
  // already, and may be more than the limit.
  Quota(std::shared_ptr<Export> base, Limit limit,
        std::unique_ptr<BlockMap> stored);

  // ENOSPC, and nothing is written, if the range needs more than is left.
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  bool writes_busy() const override {
    return Layer::writes_busy() ||
           giving_back_.load(std::memory_order_relaxed) != 0;
  }
  bool WriteWouldWait(uint64_t offset, uint64_t length) override {
    return writes_busy() || Layer::WriteWouldWait(offset, length);
  }
  int Trim(uint64_t offset, uint64_t length) override;
  // ENOSPC as for Write(), for what has to be allocated.
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override;

 private:
  // Zero() of whole blocks, where a hole is allowed; and of a part of a block.
  int ZeroBlocks(uint64_t offset, uint64_t length, Speed speed,
                 const std::atomic<bool>* cut_short);
  int ZeroPart(uint64_t offset, uint64_t length);
  // Counts the blocks that the range touches. 0 or ENOSPC.
  int Take(uint64_t offset, uint64_t length);
  // The blocks that lie in the range as a whole are no longer occupied.
  void GiveBack(uint64_t offset, uint64_t length);

  const Limit limit_;
  // Exclusive while storage is given back: a write that came in between would
  // occupy what has just been counted as free.
  std::shared_mutex changes_;
  std::atomic<int> giving_back_ = 0;  // threads that have changes_ for it
  std::mutex count_;
  std::unique_ptr<BlockMap> stored_;
  uint64_t used_bytes_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_QUOTA_H_
