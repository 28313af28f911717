// The size of the kernel's pages, in which the page cache counts: 4 KiB on x86,
// and up to 64 KiB elsewhere. Threads: any.
#ifndef NBDINETD_BASE_PAGE_SIZE_H_
#define NBDINETD_BASE_PAGE_SIZE_H_

#include <unistd.h>

#include <cstdint>

namespace nbdinetd {

// A power of two. The C library knows it from the start of the process, so that
// this makes no system call.
inline uint64_t PageBytes() {
  return static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_PAGE_SIZE_H_
