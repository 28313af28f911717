// The system calls of the process that reads partition tables, in its sandbox.
//
// Any other call fails with EPERM, and doesn't end the process: which calls
// libblkid tries depends on its version, and it can do without their results.
#ifndef NBDINETD_SANDBOX_TABLE_CALLS_H_
#define NBDINETD_SANDBOX_TABLE_CALLS_H_

#include <linux/fs.h>

#include "sandbox/system_calls.h"
#include "sandbox/table_sandbox.h"

namespace nbdinetd {

inline constexpr SystemCall kTableCalls[] = {
    // ---- The connection's process
    {"recvmsg", When::kAlways, 0, "ReceiveDescriptor", Is(0, kTableSocket)},
    {"sendto", When::kAlways, 0, "Serve", Is(0, kTableSocket), IsNull(4)},

    // ---- The file that it has sent, which is open for reading
    {"pread64", When::kAlways, 0, "TableParser"},
    {"read", When::kAlways, 0, "libblkid"},
    {"lseek", When::kAlways, 0, "libblkid"},
    {"fadvise64", When::kAlways, 0, "libblkid", Is(3, POSIX_FADV_RANDOM)},
    {"fstat", When::kAlways, 0, "TableParser"},
    {"newfstatat", When::kAlways, 0, "the C library's fstat",
     Is(3, AT_EMPTY_PATH)},
    {"ioctl", When::kAlways, 0, "libblkid", Is(1, BLKGETSIZE64)},
    {"ioctl", When::kAlways, 0, "libblkid", Is(1, BLKSSZGET)},
    {"close", When::kAlways, 0, "UniqueFd"},

    // ---- Memory that is never executable
    {"brk", When::kAlways, 0, "malloc"},
    {"mmap", When::kAlways, 0, "malloc, libblkid", Has(2, PROT_EXEC, 0),
     Has(3, MAP_ANONYMOUS, MAP_ANONYMOUS)},
    {"mprotect", When::kAlways, 0, "malloc, libblkid", Has(2, PROT_EXEC, 0)},
    {"munmap", When::kAlways, 0, "malloc, libblkid"},
    {"mremap", When::kAlways, 0, "realloc"},
    {"madvise", When::kAlways, 0, "malloc"},

    // ---- The whole process
    {"getppid", When::kAlways, 0, "Serve"},
    {"prctl", When::kAlways, 0, "Serve", Is(0, PR_SET_PDEATHSIG),
     Is(1, SIGKILL)},
    {"restart_syscall", When::kAlways, 0,
     "the kernel, after SIGSTOP and SIGCONT"},
    {"exit_group", When::kAlways, 0, "the end of the process"},
};

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_TABLE_CALLS_H_
