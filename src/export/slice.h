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
#include "export/export.h"

namespace nbdinetd {

class Slice : public Export {
 public:
  // The part of `base` from `begin` on with the size, and the other facts, of
  // `facts`. It lies inside of `base`.
  Slice(std::unique_ptr<Export> base, uint64_t begin, Facts facts);

  std::optional<Location> Locate(uint64_t offset,
                                 uint64_t length) const override {
    return base_->Locate(begin_ + offset, length);
  }
  int lock_fd() const override { return base_->lock_fd(); }
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override {
    return base_->ReadCached(begin_ + offset, out);
  }
  bool IsCached(uint64_t offset, uint64_t length) override {
    return base_->IsCached(begin_ + offset, length);
  }
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override {
    return base_->Read(begin_ + offset, out, done);
  }
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override {
    return base_->Write(begin_ + offset, data, durable);
  }
  bool writes_busy() const override { return base_->writes_busy(); }
  bool WriteWouldWait(uint64_t offset, uint64_t length) override {
    return base_->WriteWouldWait(begin_ + offset, length);
  }
  int Flush() override { return base_->Flush(); }
  int Trim(uint64_t offset, uint64_t length) override {
    return base_->Trim(begin_ + offset, length);
  }
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override {
    return base_->Zero(begin_ + offset, length, hole, speed, cut_short);
  }
  int Prefetch(uint64_t offset, uint64_t length) override {
    return base_->Prefetch(begin_ + offset, length);
  }
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out) override;
  bool finding_extents_may_sync() const override {
    return base_->finding_extents_may_sync();
  }

 private:
  const std::unique_ptr<Export> base_;
  const uint64_t begin_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_SLICE_H_
