// Sizes as people write them.
#ifndef NBDINETD_BASE_BYTE_SIZE_H_
#define NBDINETD_BASE_BYTE_SIZE_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// Parses a number of bytes, or a number with K, M, G or T, which multiply by
// powers of 1024 as in systemd's units: "4096", "4K". Returns nullopt for
// anything else, and for 2^64 or more.
std::optional<uint64_t> ParseByteSize(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_BYTE_SIZE_H_
