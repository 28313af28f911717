// fstat(2), made by the system call fstat.
//
// Current C libraries implement fstat() as newfstatat(2), which takes a path. A
// seccomp filter can't read the path, so a process that may call newfstatat
// could look at any file. Code that runs in the sandbox therefore calls
// FileStatus().
#ifndef NBDINETD_BASE_FILE_STATUS_H_
#define NBDINETD_BASE_FILE_STATUS_H_

#include <sys/stat.h>
#include <sys/syscall.h>

// Defined where the C library's struct stat is the kernel's. Elsewhere
// FileStatus() calls newfstatat(), and the sandbox allows it.
#if defined(SYS_fstat) &&                           \
    (defined(__x86_64__) || defined(__aarch64__) || \
     (defined(__riscv) && __riscv_xlen == 64)) &&   \
    __SIZEOF_POINTER__ == 8
#define NBDINETD_HAS_FSTAT_CALL 1
#endif

namespace nbdinetd {

// Fills `*st`. Returns 0, or -1 with errno set.
int FileStatus(int fd, struct stat* st);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_FILE_STATUS_H_
