// What the layers on an export have in common: each call is passed to the
// export below, with the same range. A layer overrides the calls that it
// changes. Threads: see Export.
#ifndef NBDINETD_EXPORT_LAYER_H_
#define NBDINETD_EXPORT_LAYER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "export/export.h"

namespace nbdinetd {

class Layer : public Export {
 public:
  int lock_fd() const override { return base_->lock_fd(); }
  bool lock_fd_is_read_only() const override {
    return base_->lock_fd_is_read_only();
  }

  std::optional<Location> Locate(uint64_t offset,
                                 uint64_t length) const override {
    return base_->Locate(offset, length);
  }
  std::optional<Origin> FindOrigin(uint64_t offset,
                                   uint64_t length) const override {
    return base_->FindOrigin(offset, length);
  }
  bool caches_reads() const override { return base_->caches_reads(); }
  bool begins_reads() const override { return base_->begins_reads(); }
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override {
    return base_->ReadCached(offset, out);
  }
  bool IsCached(uint64_t offset, uint64_t length) override {
    return base_->IsCached(offset, length);
  }
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override {
    return base_->Read(offset, out, done);
  }
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override {
    return base_->Write(offset, data, durable);
  }
  bool writes_busy() const override { return base_->writes_busy(); }
  bool WriteWouldWait(uint64_t offset, uint64_t length) override {
    return base_->WriteWouldWait(offset, length);
  }
  int Flush() override { return base_->Flush(); }
  int Trim(uint64_t offset, uint64_t length) override {
    return base_->Trim(offset, length);
  }
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override {
    return base_->Zero(offset, length, hole, speed, cut_short);
  }
  int Prefetch(uint64_t offset, uint64_t length) override {
    return base_->Prefetch(offset, length);
  }
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out) override {
    return base_->FindExtents(offset, length, limit, cut_short, out);
  }
  bool finding_extents_may_sync() const override {
    return base_->finding_extents_may_sync();
  }

 protected:
  // On `base`, whose path it has. Others may use `base` as well: the catalog
  // keeps a share of an export that is open from the start.
  Layer(std::shared_ptr<Export> base, Facts facts)
      : Export(base->path(), facts), base_(std::move(base)) {}
  // With the facts of `base`.
  explicit Layer(std::shared_ptr<Export> base)
      : Export(base->path(), base->facts()), base_(std::move(base)) {}

  Export& base() const { return *base_; }

 private:
  const std::shared_ptr<Export> base_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_LAYER_H_
