// The kernel's page size, the unit of the page cache: 4 KiB on x86, up to 64
// KiB elsewhere. Threads: any.
#ifndef NBDINETD_BASE_PAGE_SIZE_H_
#define NBDINETD_BASE_PAGE_SIZE_H_

#include <unistd.h>

#include <cstdint>

namespace nbdinetd {

// The page size in bytes, a power of two. The C library gets it at the start of
// the process, so this makes no system call.
inline uint64_t PageBytes() {
  return static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_PAGE_SIZE_H_
