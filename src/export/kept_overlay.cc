#include "export/kept_overlay.h"

#include <utility>

namespace nbdinetd {

KeptOverlay::KeptOverlay(std::shared_ptr<Export> base, Facts facts, Copy copy,
                         std::unique_ptr<KeptMap> kept)
    : Overlay(std::move(base), facts, std::move(copy)),
      kept_(std::move(kept)) {}

KeptOverlay::~KeptOverlay() {
  // Nobody is there who could get an error.
  KeptOverlay::Flush();
}

int KeptOverlay::SetCopied(uint64_t begin, uint64_t end) {
  uint64_t end_added = begin;
  const int error = kept_->Add(begin, end, &end_added);
  // This process, too, sees the blocks of the map as copied.
  if (end_added > begin) Overlay::SetCopied(begin, end_added);
  return error;
}

int KeptOverlay::Write(uint64_t offset, absl::Span<const char> data,
                       bool durable) {
  if (!durable || data.empty()) return Overlay::Write(offset, data, durable);
  const uint64_t end = offset + data.size();
  if (kept_->AreDurable(offset / block_bytes(),
                        (end - 1) / block_bytes() + 1)) {
    return Overlay::Write(offset, data, /*durable=*/true);
  }
  // A block in the durable map must have all of its bytes durable.
  if (const int error = Overlay::Write(offset, data, /*durable=*/false)) {
    return error;
  }
  return Flush();
}

int KeptOverlay::Flush() {
  return kept_->Flush([this] { return copy().Flush(); });
}

}  // namespace nbdinetd
