// The system calls that a connection may make in the sandbox: when, with which
// arguments, and which function makes them.
//
// compile_filters.cc makes the filters from this table. A row with facts is
// only in the filters of connections with these facts; several rows of one
// system call add up. Constants of the kernel that only newer headers have are
// numbers here. A filter sees only numbers, not the memory that a pointer
// refers to. A call that could reach other processes by a pointer, such as
// sendmsg() (an address, and descriptors) or newfstatat() (a path), is listed
// only if no other call can replace it. A call that writes bytes to a
// descriptor that other processes may share names that descriptor. The others
// only move bytes of open files (pread64), or send to a connected socket
// (sendto without an address).
#ifndef NBDINETD_SANDBOX_SYSTEM_CALLS_H_
#define NBDINETD_SANDBOX_SYSTEM_CALLS_H_

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/behind_any_file.h"
#include "base/file_status.h"
#include "sandbox/filters.h"

namespace nbdinetd {

// A condition on one argument. kInt is about its low 32 bits, which are a whole
// int: those in `mask` equal those of `value`. kLong is about all 64 bits, and
// has no mask.
struct Condition {
  enum class Kind { kNone, kInt, kLong } kind = Kind::kNone;
  unsigned argument = 0;  // from 0
  uint32_t mask = 0;
  uint64_t value = 0;
};
constexpr Condition Is(unsigned argument, uint32_t value) {
  return {Condition::Kind::kInt, argument, 0xffffffff, value};
}
constexpr Condition Has(unsigned argument, uint32_t mask, uint32_t value) {
  return {Condition::Kind::kInt, argument, mask, value};
}
constexpr Condition IsLong(unsigned argument, uint64_t value) {
  return {Condition::Kind::kLong, argument, 0, value};
}
constexpr Condition IsNull(unsigned argument) { return IsLong(argument, 0); }

// Until transmission starts, or always.
enum class When { kNegotiation, kAlways };

struct SystemCall {
  const char* name;  // or "#NUMBER", if libseccomp may not know it
  When when;
  unsigned needs;    // the facts that must all be true: kIfTls | ...
  const char* user;  // the function or library that makes it
  Condition first = {}, second = {}, third = {};
  int refused_by = 0;  // if not 0: the call fails with this errno
};

// clone(2) with the flags of a thread, and none that creates a namespace.
inline constexpr uint32_t kNewNamespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
inline constexpr uint32_t kThreadMask = CLONE_VM | CLONE_SIGHAND |
                                        CLONE_THREAD | CLONE_VFORK |
                                        CLONE_PTRACE | kNewNamespaces;
inline constexpr uint32_t kThread = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;

// The signal by which the C library changes the user of all threads.
inline constexpr uint32_t kSetxidSignal = __SIGRTMIN + 1;
// Some C libraries' headers lack these.
inline constexpr uint32_t kSolTls = 282;            // SOL_TLS
inline constexpr uint32_t kPrSetVma = 0x53564d41;   // PR_SET_VMA
inline constexpr uint32_t kStatxDioAlign = 0x2000;  // STATX_DIOALIGN
inline constexpr uint32_t kNoReplace = 1;           // RENAME_NOREPLACE
inline constexpr uint32_t kSpeculation = 4;  // SECCOMP_FILTER_FLAG_SPEC_ALLOW

inline constexpr SystemCall kSystemCalls[] = {
    // ---- The client
    {"recvfrom", When::kAlways, 0, "SocketStream::Read"},
    {"sendto", When::kAlways, 0, "SocketStream::Write; MessageSocket",
     IsNull(4)},
    {"sendmsg", When::kAlways, kIfTls,
     "OpenSSL's alerts, if the kernel encrypts", Is(0, kKernelTls)},
    {"sendfile", When::kAlways, 0, "SocketStream::SendFile", Is(0, kSocket)},
    {"read", When::kAlways, 0, "PipeStream", Is(0, kInput)},
    {"read", When::kAlways, 0, "Signals", Is(0, kSignals)},
    {"read", When::kAlways, 0, "Workers", Is(0, kWorkers)},
    {"write", When::kAlways, 0, "OpenSSL, --check", Is(0, kOutput)},
    {"write", When::kAlways, 0, "Log to standard error", Is(0, STDERR_FILENO)},
    {"write", When::kAlways, 0, "Log to a file", Is(0, kLogFile)},
    {"write", When::kAlways, 0, "Workers", Is(0, kWorkers)},
    {"writev", When::kAlways, 0, "PipeStream", Is(0, kOutput)},
    {"writev", When::kAlways, 0, "the C library, before it aborts",
     Is(0, STDERR_FILENO)},
    {"poll", When::kAlways, 0, "PollUntil, Log"},
    {"ppoll", When::kAlways, 0, "the same, where there is no poll"},
    {"shutdown", When::kAlways, 0, "SocketStream, at the end", Is(0, kSocket)},
    {"fcntl", When::kAlways, kIfTls, "SocketStream, for TLS in the kernel",
     Is(0, kSocket), Is(1, F_GETFL)},
    {"fcntl", When::kAlways, kIfTls, "SocketStream, for TLS in the kernel",
     Is(0, kSocket), Is(1, F_SETFL)},
    {"ioctl", When::kAlways, 0, "SocketStream::unread_bytes", Is(0, kSocket),
     Is(1, TIOCOUTQ)},
    {"ioctl", When::kAlways, 0, "MessageSocket::AwaitReceived", Is(0, kJournal),
     Is(1, TIOCOUTQ)},
    {"getsockopt", When::kAlways, 0, "SocketStream::acknowledged_bytes",
     Is(0, kSocket), Is(1, IPPROTO_TCP), Is(2, TCP_INFO)},
    {"setsockopt", When::kNegotiation, kIfTls, "OpenSslStream::TryKernel",
     Is(0, kSocket), Is(1, IPPROTO_TCP), Is(2, TCP_ULP)},
    {"setsockopt", When::kNegotiation, kIfTls,
     "OpenSSL, to pass its key to the kernel", Is(0, kKernelTls),
     Is(1, kSolTls)},

    // ---- The export
    {"preadv2", When::kAlways, 0, "StoredExport::ReadCached, ReadOnce"},
    {"preadv", When::kAlways, 0,
     "StoredExport::ReadCached, of a file in memory"},
    {"pread64", When::kAlways, 0, "StoredExport::Read"},
    {"#451", When::kAlways, 0, "cachestat: PageCache"},
    {"mincore", When::kAlways, 0, "PageCache, where there is no cachestat"},
    {"fadvise64", When::kAlways, 0, "StoredExport::Prefetch",
     Is(3, POSIX_FADV_WILLNEED)},
    {"fadvise64", When::kAlways, 0, "StoredExport::Drop",
     Is(3, POSIX_FADV_DONTNEED)},
    {"fadvise64", When::kAlways, 0, "DropBehind", Is(3, POSIX_FADV_RANDOM)},
    {"fcntl", When::kAlways, kIfWritable | kIfBlockDevices, "RangeLocks",
     Is(1, F_OFD_SETLKW)},
    {"lseek", When::kAlways, 0, "FindExtents", Is(2, SEEK_DATA)},
    {"lseek", When::kAlways, 0, "FindExtents", Is(2, SEEK_HOLE)},
    {"ioctl", When::kAlways, 0, "FindExtents", Is(1, FS_IOC_FIEMAP)},
    {"ioctl", When::kAlways, 0, "ExtentSourceOf", Is(1, FS_IOC_GETFLAGS)},
    {"sync_file_range", When::kAlways, 0, "StoredExport::WriteBack"},
    {"fstatfs", When::kAlways, 0,
     "StorageInSandbox, ExtentSourceOf, ReadCached, PageCache"},
    {"fstat", When::kAlways, 0, "ExportOf, FileExport::Zero, FindExtents"},
#ifndef NBDINETD_HAS_FSTAT_CALL
    {"newfstatat", When::kAlways, 0, "the same, where there is no fstat",
     Is(3, AT_EMPTY_PATH)},
#endif
    {"fdatasync", When::kAlways, 0, "StoredExport::Flush, also if read-only"},
    {"pwrite64", When::kAlways, kIfWritable, "StoredExport::Write"},
    {"pwritev2", When::kAlways, kIfWritable,
     "StoredExport::Write, with RWF_* flags"},
    {"fallocate", When::kAlways, kIfWritable, "Trim, Zero",
     Is(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)},
    {"fallocate", When::kAlways, kIfWritable, "FileExport::Zero",
     Is(1, FALLOC_FL_ZERO_RANGE)},
    {"fallocate", When::kAlways, kIfWritable,
     "FileExport::Zero, without ZERO_RANGE", Is(1, 0)},
    {"ioctl", When::kAlways, kIfWritable | kIfBlockDevices, "Trim",
     Is(1, BLKDISCARD)},
    {"ioctl", When::kAlways, kIfWritable | kIfBlockDevices, "Zero",
     Is(1, BLKZEROOUT)},

    // ---- The private copy, while the export is only read
    {"pwrite64", When::kAlways, kIfCopy, "StoredExport::Write", Is(0, kCopy)},
    {"fallocate", When::kAlways, kIfCopy, "Trim, Zero", Is(0, kCopy),
     Is(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)},
    {"fallocate", When::kAlways, kIfCopy, "FileExport::Zero", Is(0, kCopy),
     Is(1, FALLOC_FL_ZERO_RANGE)},
    {"fallocate", When::kAlways, kIfCopy,
     "FileExport::Zero, without ZERO_RANGE", Is(0, kCopy), Is(1, 0)},
    {"ioctl", When::kNegotiation, kIfCopy, "PrivateCopy::Of", Is(0, kCopy),
     Is(1, FICLONERANGE)},
    {"ftruncate", When::kNegotiation, kIfCopy, "PrivateCopy::Of", Is(0, kCopy)},
    {"fcntl", When::kNegotiation, kIfCopy, "LockBaseOfCopy",
     Is(1, F_OFD_SETLK)},
    {"mmap", When::kNegotiation, kIfCopy,
     "PageCache, where there is no cachestat; nothing accesses it",
     Is(2, PROT_NONE), Is(3, MAP_PRIVATE)},
    {"mmap", When::kNegotiation, kIfCopy, "ReadsBypassPageCache",
     Is(2, PROT_NONE), Is(3, MAP_SHARED), IsLong(5, kBehindAnyFile)},

    // ---- The kept copy: one of those of the directory, found by who the
    // client is, is put where the private copy is
    {"pwritev2", When::kAlways, kIfKept, "StoredExport::Write, durably",
     Is(0, kCopy)},
    {"openat2", When::kNegotiation, kIfKept, "KeptDirectory::Take",
     Is(0, kCopies)},
    {"dup3", When::kNegotiation, kIfKept, "KeptDirectory::Take", Is(1, kCopy),
     Is(2, O_CLOEXEC)},
    {"linkat", When::kNegotiation, kIfKept, "KeptDirectory::Name",
     Is(2, kCopies)},
    {"renameat2", When::kNegotiation, kIfKept,
     "KeptDirectory::Name, where there are no links", Is(0, kCopies),
     Is(2, kCopies), Is(4, kNoReplace)},
    {"unlinkat", When::kNegotiation, kIfKept, "KeptDirectory::Remove",
     Is(0, kCopies), Is(2, 0)},
    {"fsync", When::kNegotiation, kIfKept, "KeptDirectory::Name",
     Is(0, kCopies)},
    {"fsync", When::kNegotiation, kIfKept, "MakeCopy", Is(0, kCopy)},

    // ---- Choosing the export
    {"openat2", When::kNegotiation, kIfDirectory, "DirectoryCatalog",
     Is(0, kDirectory)},
    {"newfstatat", When::kNegotiation, kIfDirectory, "DirectoryCatalog::Look",
     Is(0, kDirectory), Is(3, AT_SYMLINK_NOFOLLOW)},
    {"getdents64", When::kNegotiation, kIfDirectory, "DirectoryCatalog::List"},
    {"ioctl", When::kNegotiation, kIfDirectory, "BlockDeviceExport::IsReadOnly",
     Is(1, BLKROGET)},
    {"ioctl", When::kNegotiation, kIfDirectory, "BlockDeviceExport::Create",
     Is(1, BLKGETSIZE64)},
    {"ioctl", When::kNegotiation, kIfDirectory, "BlockDeviceExport::Create",
     Is(1, BLKSSZGET)},
    {"ioctl", When::kNegotiation, kIfDirectory, "BlockDeviceExport::Create",
     Is(1, BLKPBSZGET)},
    {"ioctl", When::kNegotiation, kIfDirectory, "BlockDeviceExport::Create",
     Is(1, BLKROTATIONAL)},
    {"statx", When::kNegotiation, kIfDirectory, "DirectAlignment",
     Is(2, AT_EMPTY_PATH), Is(3, kStatxDioAlign)},
    {"mmap", When::kNegotiation, kIfDirectory,
     "PageCache, where there is no cachestat; nothing accesses it",
     Is(2, PROT_NONE), Is(3, MAP_PRIVATE)},
    {"mmap", When::kNegotiation, kIfDirectory, "ReadsBypassPageCache",
     Is(2, PROT_NONE), Is(3, MAP_SHARED), IsLong(5, kBehindAnyFile)},
    {"sendmsg", When::kNegotiation, kIfDirectory,
     "TableReader, to its process, with a descriptor", Is(0, kTables)},
    {"fcntl", When::kNegotiation, 0, "CheckNoMerge, LockImage, ExclusiveLock",
     Is(1, F_OFD_GETLK)},
    {"fcntl", When::kNegotiation, kIfWritable, "LockImage", Is(1, F_OFD_SETLK)},
    {"fcntl", When::kNegotiation, kIfExclusive, "ExclusiveLock",
     Is(1, F_OFD_SETLK)},
    {"fcntl", When::kNegotiation, kIfExclusive, "ExclusiveLock",
     Is(1, F_SETLK)},
    {"uname", When::kNegotiation, kIfExclusive, "ExclusiveLock"},
    {"clock_nanosleep", When::kNegotiation, kIfExclusive,
     "ExclusiveLock, after a collision of two candidates"},
    {"fcntl", When::kNegotiation, kIfTakeover, "ExclusiveLock::AskHolder",
     Is(1, F_GETLK)},
    {"pidfd_open", When::kNegotiation, kIfTakeover, "ExclusiveLock::AskHolder"},
    {"pidfd_send_signal", When::kNegotiation, kIfTakeover,
     "ExclusiveLock::AskHolder; others ignore it by default", Is(1, SIGURG)},

    // ---- Memory that is never executable
    {"brk", When::kAlways, 0, "malloc"},
    {"mmap", When::kAlways, 0, "malloc, stacks", Has(2, PROT_EXEC, 0),
     Has(3, MAP_ANONYMOUS, MAP_ANONYMOUS)},
    {"mprotect", When::kAlways, 0, "malloc, stacks", Has(2, PROT_EXEC, 0)},
    {"munmap", When::kAlways, 0, "malloc, stacks"},
    {"mremap", When::kAlways, 0, "realloc"},
    {"madvise", When::kAlways, 0, "malloc, stacks of threads that have ended"},

    // ---- Workers
    {"futex", When::kAlways, 0, "Workers, DurableCall"},
    {"sched_yield", When::kAlways, 0, "Spinner"},
    // The flags of clone3 are in memory, which a filter can't read. After
    // ENOSYS the C library uses clone.
    {"clone3", When::kAlways, 0, "pthread_create", {}, {}, {}, ENOSYS},
    {"clone", When::kAlways, 0, "pthread_create", Has(0, kThreadMask, kThread)},
    {"set_robust_list", When::kAlways, 0, "a thread's start"},
    {"rseq", When::kAlways, 0, "a thread's start"},
    {"rt_sigaction", When::kAlways, 0, "the first pthread_create",
     Is(0, kSetxidSignal)},
    {"rt_sigprocmask", When::kAlways, 0, "a thread's start and end, abort"},
    {"sched_getaffinity", When::kAlways, 0, "malloc, to count the processors"},
    {"exit", When::kAlways, 0, "a thread's end"},

    // ---- OpenSSL
    {"getrandom", When::kAlways, kIfTls, "OpenSSL"},
    {"sysinfo", When::kAlways, kIfTls, "OpenSSL, qsort() of many certificates"},

    // ---- The whole process
    {"close", When::kAlways, 0, "UniqueFd"},
    {"getpid", When::kAlways, 0, "Log, OpenSSL, ExclusiveLock, LoadFilter"},
    {"gettid", When::kAlways, 0, "abort"},
    {"tgkill", When::kAlways, 0, "abort", Is(0, kOwnProcess), Is(2, SIGABRT)},
    {"clock_gettime", When::kAlways, 0, "if the vDSO has no clock to read"},
    {"gettimeofday", When::kAlways, 0, "if the vDSO has no clock to read"},
    {"time", When::kAlways, 0, "if the vDSO has no clock to read"},
    {"restart_syscall", When::kAlways, 0,
     "the kernel, after SIGSTOP and SIGCONT"},
    {"exit_group", When::kAlways, 0, "the end of the process"},
    {"seccomp", When::kNegotiation, 0, "Sandbox::Tighten",
     Is(0, SECCOMP_SET_MODE_FILTER), Has(1, ~kSpeculation, 0)},

    // ---- Calls that libraries make and can do without
    {"openat",
     When::kAlways,
     0,
     "malloc, to count the processors",
     {},
     {},
     {},
     EACCES},
    {"open",
     When::kAlways,
     0,
     "older C libraries, for the same",
     {},
     {},
     {},
     EACCES},
    {"socket",
     When::kAlways,
     0,
     "MessageSocket, to reconnect",
     {},
     {},
     {},
     EACCES},
    {"prctl",
     When::kAlways,
     0,
     "newer C libraries, to name memory",
     Is(0, kPrSetVma),
     {},
     {},
     EINVAL},
};

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_SYSTEM_CALLS_H_
