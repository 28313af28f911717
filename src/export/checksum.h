// CRC-64/XZ: detects accidental changes of bytes, no attacks.
//
// It keeps the headers of kept copies, and digests of what they are copies of.
// No library that is loaded anyway has such a function. Threads: any.
#ifndef NBDINETD_EXPORT_CHECKSUM_H_
#define NBDINETD_EXPORT_CHECKSUM_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// The checksum of bytes that follow others, whose checksum is `before`.
uint64_t Checksum(absl::string_view bytes, uint64_t before = 0);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CHECKSUM_H_
