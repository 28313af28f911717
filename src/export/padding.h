// An export with zeroes behind its end, so that its size is a multiple of a
// client's blocks. Nothing can be stored in the zeroes. Threads: see Export.
#ifndef NBDINETD_EXPORT_PADDING_H_
#define NBDINETD_EXPORT_PADDING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/types/span.h"
#include "export/layer.h"

namespace nbdinetd {

class Padding : public Layer {
 public:
  // `base`, and zeroes up to the size of `facts`, which is no less than its
  // own.
  Padding(std::shared_ptr<Export> base, Facts facts);

  std::optional<Location> Locate(uint64_t offset,
                                 uint64_t length) const override;
  std::optional<Origin> FindOrigin(uint64_t offset,
                                   uint64_t length) const override;
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override;
  bool IsCached(uint64_t offset, uint64_t length) override;
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override;
  // ENOSPC, and nothing is written, if a byte behind the base isn't zero.
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  bool WriteWouldWait(uint64_t offset, uint64_t length) override;
  int Trim(uint64_t offset, uint64_t length) override;
  // ENOSPC if the range has to be allocated and is not all in the base.
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override;
  int Prefetch(uint64_t offset, uint64_t length) override;
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out) override;

 private:
  // How much of a range lies in the base; the rest is behind it.
  uint64_t InBase(uint64_t offset, uint64_t length) const;

  const uint64_t base_bytes_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_PADDING_H_
