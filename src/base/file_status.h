// fstat(2) by the system call of that name.
//
// The C library makes fstat() by newfstatat(2), which takes a path. A filter of
// system calls can't see which, so that a process that may make it could look
// at any file of the system. Whatever is called from within the sandbox asks
// this.
#ifndef NBDINETD_BASE_FILE_STATUS_H_
#define NBDINETD_BASE_FILE_STATUS_H_

#include <sys/stat.h>
#include <sys/syscall.h>

// Where the C library's struct stat is the kernel's; elsewhere it has to be
// newfstatat() all the same, and the sandbox lets it.
#if defined(SYS_fstat) &&                           \
    (defined(__x86_64__) || defined(__aarch64__) || \
     (defined(__riscv) && __riscv_xlen == 64)) &&   \
    __SIZEOF_POINTER__ == 8
#define NBDINETD_HAS_FSTAT_CALL 1
#endif

namespace nbdinetd {

// 0, or -1 and errno.
int FileStatus(int fd, struct stat* st);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_FILE_STATUS_H_
