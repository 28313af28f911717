// An offset behind the end of every file, at which the sandbox allows a shared
// mapping: one that was made writable later would still change no file.
#ifndef NBDINETD_BASE_BEHIND_ANY_FILE_H_
#define NBDINETD_BASE_BEHIND_ANY_FILE_H_

#include <cstdint>

namespace nbdinetd {

// The last 64 KiB of all offsets, which is a multiple of every page size.
inline constexpr uint64_t kBehindAnyFile = 0x7fff'ffff'ffff'0000;

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_BEHIND_ANY_FILE_H_
