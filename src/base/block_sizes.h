// The size constraints of an export (the specification, "Size constraints"). A
// plain value.
#ifndef NBDINETD_BASE_BLOCK_SIZES_H_
#define NBDINETD_BASE_BLOCK_SIZES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/limits.h"

namespace nbdinetd {

// All in bytes.
struct BlockSizes {
  // The largest `minimum` that the specification allows.
  static constexpr uint32_t kMaxMinimum = 64 << 10;
  // The smallest `preferred`.
  static constexpr uint32_t kMinPreferred = 512;

  // The alignment of each request. A power of 2.
  uint32_t minimum = 1;
  // A power of 2, at least `minimum` and 512.
  uint32_t preferred = 4096;
  // The maximum payload, at least `preferred`. More is accepted by default,
  // since clients that don't request NBD_INFO_BLOCK_SIZE may send it.
  uint32_t advertised_payload = kAdvertisedPayloadBytes;
  uint32_t accepted_payload = kMaxPayloadBytes;
  // The administrator has chosen them. The clients are told unasked, since a
  // server with other constraints than the specification's defaults must.
  bool chosen = false;
};

// Parses MIN:PREFERRED:MAX, each as ParseByteSize(). An error has a sentence
// for the administrator, without the text.
absl::StatusOr<BlockSizes> ParseBlockSizes(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_BLOCK_SIZES_H_
