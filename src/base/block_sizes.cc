#include "base/block_sizes.h"

#include <array>
#include <bit>
#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/errors.h"

namespace nbdinetd {

absl::StatusOr<BlockSizes> ParseBlockSizes(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  std::array<uint32_t, 3> sizes;
  if (parts.size() != sizes.size()) {
    return absl::InvalidArgumentError(
        "MIN:PREFERRED:MAX is needed, as in 512:4K:32M");
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::optional<uint64_t> size = ParseByteSize(parts[i]);
    if (!size.has_value() || *size > kMaxPayloadBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(parts[i]),
                       " is no size of up to 64M; use bytes, or a number with "
                       "K or M"));
    }
    sizes[i] = static_cast<uint32_t>(*size);
  }
  const auto [minimum, preferred, maximum] = sizes;
  if (!std::has_single_bit(minimum) || minimum > BlockSizes::kMaxMinimum) {
    return absl::InvalidArgumentError("MIN must be a power of 2, of up to 64K");
  }
  if (!std::has_single_bit(preferred) || preferred < minimum ||
      preferred < BlockSizes::kMinPreferred) {
    return absl::InvalidArgumentError(
        "PREFERRED must be a power of 2, and no less than MIN and 512");
  }
  if (maximum < preferred || maximum % minimum != 0) {
    return absl::InvalidArgumentError(
        "MAX must be a multiple of MIN, and no less than PREFERRED");
  }
  return BlockSizes{.minimum = minimum,
                    .preferred = preferred,
                    .advertised_payload = maximum,
                    .accepted_payload = maximum,
                    .chosen = true};
}

}  // namespace nbdinetd
