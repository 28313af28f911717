// How reads and writes beside the page cache (O_DIRECT) have to be aligned.
#ifndef NBDINETD_EXPORT_DIRECT_ALIGNMENT_H_
#define NBDINETD_EXPORT_DIRECT_ALIGNMENT_H_

#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"

namespace nbdinetd {

// The largest alignment that is served: that of the largest blocks of file
// systems.
inline constexpr uint64_t kMaxDirectAlignment = 64 << 10;

// In bytes; powers of 2 up to kMaxDirectAlignment. A device may want its memory
// aligned to more than its blocks, and end at a block that isn't aligned so; or
// to less, down to bytes.
struct DirectAlignment {
  uint64_t block;   // of offsets and lengths: at least 512
  uint64_t memory;  // of addresses

  bool Fits(uint64_t offset_or_length) const {
    return offset_or_length % block == 0;
  }
  bool Fits(uint64_t offset, const void* address) const {
    return Fits(offset) && reinterpret_cast<uintptr_t>(address) % memory == 0;
  }
};

// Of the file or block device `fd`, which is open with O_DIRECT. statx(2) tells
// it since Linux 6.1; elsewhere reads try it. nullopt: there is none up to
// kMaxDirectAlignment, or the file system can't pass by the page cache.
std::optional<DirectAlignment> FindDirectAlignment(int fd);

// The smallest alignment with which `read`, which gets an aligned address and a
// length, reads the beginning of a file; it returns false if the alignment is
// wrong. FindDirectAlignment() uses it where statx(2) doesn't tell.
std::optional<DirectAlignment> TryDirectAlignments(
    absl::FunctionRef<bool(char* address, uint64_t length)> read);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_DIRECT_ALIGNMENT_H_
