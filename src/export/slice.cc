#include "export/slice.h"

#include <algorithm>
#include <utility>

namespace nbdinetd {

Slice::Slice(std::shared_ptr<Export> base, uint64_t begin, Facts facts)
    : Layer(std::move(base), facts), begin_(begin) {}

int Slice::FindExtents(uint64_t offset, uint64_t length, size_t limit,
                       const std::atomic<bool>* cut_short, Extents* out) {
  if (const int error =
          base().FindExtents(begin_ + offset, length, limit, cut_short, out)) {
    return error;
  }
  // The base goes on behind the slice. Only its last extent may reach there:
  // the ones before end inside the range.
  uint64_t before = 0;
  for (size_t i = 0; i + 1 < out->size(); ++i) before += (*out)[i].length_bytes;
  out->back().length_bytes =
      std::min(out->back().length_bytes, facts().size_bytes - offset - before);
  if (facts().block_sizes.minimum > 1) {
    AlignExtents(facts().block_sizes.minimum, length, out);
  }
  return 0;
}

}  // namespace nbdinetd
