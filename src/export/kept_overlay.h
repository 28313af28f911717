// An Overlay whose copy is kept: it remembers which blocks it has in the file.
//
// A block gets its data first, then its bit in the live map, and is then seen
// as copied. A flush, and a durable write of blocks that the durable map lacks,
// makes all of the copy durable (KeptMap). Threads: see Export.
#ifndef NBDINETD_EXPORT_KEPT_OVERLAY_H_
#define NBDINETD_EXPORT_KEPT_OVERLAY_H_

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "export/kept_map.h"
#include "export/overlay.h"

namespace nbdinetd {

class KeptOverlay : public Overlay {
 public:
  // As Overlay, with the map of `copy`, which is what has been copied.
  KeptOverlay(std::shared_ptr<Export> base, Facts facts, Copy copy,
              std::unique_ptr<KeptMap> kept);
  // Flushes: otherwise a restart of the machine, however much later, would lose
  // what the client has written and not flushed.
  ~KeptOverlay() override;

  // Of the copy: many copies share the base.
  int lock_fd() const override { return copy().lock_fd(); }
  bool lock_fd_is_read_only() const override { return false; }

  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  int Flush() override;

 private:
  int SetCopied(uint64_t begin, uint64_t end) override;

  const std::unique_ptr<KeptMap> kept_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_OVERLAY_H_
