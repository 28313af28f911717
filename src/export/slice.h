// A part of an export as an export of its own, with block sizes of its own.
// Threads: see Export.
#ifndef NBDINETD_EXPORT_SLICE_H_
#define NBDINETD_EXPORT_SLICE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/types/span.h"
#include "export/layer.h"

namespace nbdinetd {

class Slice : public Layer {
 public:
  // The part of `base` from `begin` on with the size, and the other facts, of
  // `facts`. It lies inside of `base`.
  Slice(std::shared_ptr<Export> base, uint64_t begin, Facts facts);

  std::optional<Location> Locate(uint64_t offset,
                                 uint64_t length) const override {
    return base().Locate(begin_ + offset, length);
  }
  std::optional<Origin> FindOrigin(uint64_t offset,
                                   uint64_t length) const override {
    return base().FindOrigin(begin_ + offset, length);
  }
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override {
    return base().ReadCached(begin_ + offset, out);
  }
  bool IsCached(uint64_t offset, uint64_t length) override {
    return base().IsCached(begin_ + offset, length);
  }
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override {
    return base().Read(begin_ + offset, out, done);
  }
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override {
    return base().Write(begin_ + offset, data, durable);
  }
  bool WriteWouldWait(uint64_t offset, uint64_t length) override {
    return base().WriteWouldWait(begin_ + offset, length);
  }
  int Trim(uint64_t offset, uint64_t length) override {
    return base().Trim(begin_ + offset, length);
  }
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override {
    return base().Zero(begin_ + offset, length, hole, speed, cut_short);
  }
  int Prefetch(uint64_t offset, uint64_t length) override {
    return base().Prefetch(begin_ + offset, length);
  }
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out) override;

 private:
  const uint64_t begin_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_SLICE_H_
