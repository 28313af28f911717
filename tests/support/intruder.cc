// Somebody who has taken over the process of a connection: linked with the
// program's own objects in place of the sandbox's two steps, which it makes
// first.
//
// NBDINETD_INTRUDER="STEP ATTEMPT": after that step (enter, tighten, or table
// for the sandbox of the process that reads partition tables) the attempt is
// made, once, and its outcome written to standard error: "intruder: done", or
// the number of the error. A call that the sandbox lets nobody make ends the
// process instead.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "sandbox/sandbox.h"
#include "sandbox/table_sandbox.h"

namespace {

constexpr size_t kPage = 4096;
char g_page[2 * kPage];
const char kSecret[] = "/etc/passwd";
const char* const kShell[] = {"/bin/sh", "-c", "echo intruder: done >&2",
                              nullptr};
char** environment() { return ::environ; }

// Where the tests put the client's socket.
constexpr int kClient = 3;

// The first descriptor from there on of a kind. Not by the C library's fstat(),
// which is newfstatat().
int FdOf(mode_t kind, int from = kClient) {
  for (int fd = from; fd < 64; ++fd) {
    struct stat st;
    if (syscall(SYS_fstat, fd, &st) == 0 && (st.st_mode & S_IFMT) == kind)
      return fd;
  }
  return -1;
}

// The directory whose exports are served, and the export.
int DirectoryFd() { return FdOf(S_IFDIR); }
int ExportFd() { return FdOf(S_IFREG); }
// The file of a private copy, which is opened after the export.
int CopyFd() { return FdOf(S_IFREG, ExportFd() + 1); }

// Sends a message that has a descriptor with it, by a socket, to whoever the
// socket is connected to or to `name`.
long SendDescriptor(int socket, int descriptor, const char* name) {
  iovec piece = {const_cast<char*>("x"), 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  sockaddr_un address = {};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &descriptor, sizeof(descriptor));
  if (name != nullptr) {
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, name, sizeof(address.sun_path) - 1);
    message.msg_name = &address;
    message.msg_namelen = sizeof(address);
  }
  return syscall(SYS_sendmsg, socket, &message, MSG_DONTWAIT);
}

// The socket of the service manager, which is the only one besides the
// client's.
int ManagerFd() { return FdOf(S_IFSOCK, kClient + 1); }

long OpenAt2(int directory, const char* path, uint64_t flags) {
  open_how how = {};
  how.flags = flags;
  how.mode = (flags & O_CREAT) != 0 ? 0600 : 0;
  return syscall(SYS_openat2, directory, path, &how, sizeof(how));
}

void* Page() {
  void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? nullptr : page;
}

// Read from the environment, since asking is a system call, too.
pid_t Victim() { return atoi(getenv("INTRUDER_VICTIM")); }

long Fork(long result) {
  if (result == 0) _exit(0);
  return result;
}

struct Attempt {
  const char* name;
  long (*make)();
};

const Attempt kAttempts[] = {
    // Files
    {"open", [] { return syscall(SYS_open, kSecret, O_RDONLY); }},
    {"openat", [] { return syscall(SYS_openat, AT_FDCWD, kSecret, O_RDONLY); }},
    {"openat2", [] { return OpenAt2(AT_FDCWD, kSecret, O_RDONLY); }},
    {"creat", [] { return syscall(SYS_creat, getenv("INTRUDER_FILE"), 0600); }},
    {"open_by_handle_at",
     [] { return syscall(SYS_open_by_handle_at, AT_FDCWD, g_page, 0); }},
    {"readlink",
     [] { return syscall(SYS_readlink, "/proc/self/exe", g_page, kPage); }},
    {"access", [] { return syscall(SYS_access, kSecret, R_OK); }},
    {"statx",
     [] { return syscall(SYS_statx, AT_FDCWD, kSecret, 0, 1, g_page); }},
    {"unlink", [] { return syscall(SYS_unlink, getenv("INTRUDER_FILE")); }},
    {"rename",
     [] { return syscall(SYS_rename, getenv("INTRUDER_FILE"), "/tmp/x"); }},
    {"link",
     [] { return syscall(SYS_link, kSecret, getenv("INTRUDER_FILE")); }},
    {"symlink",
     [] { return syscall(SYS_symlink, kSecret, getenv("INTRUDER_FILE")); }},
    {"mkdir", [] { return syscall(SYS_mkdir, getenv("INTRUDER_FILE"), 0700); }},
    {"mknod",
     [] {
       return syscall(SYS_mknod, getenv("INTRUDER_FILE"), S_IFIFO | 0600, 0);
     }},
    {"chmod", [] { return syscall(SYS_chmod, getenv("INTRUDER_FILE"), 0777); }},
    {"fchmod", [] { return syscall(SYS_fchmod, -1, 0777); }},
    {"chown", [] { return syscall(SYS_chown, getenv("INTRUDER_FILE"), 0, 0); }},
    {"truncate",
     [] { return syscall(SYS_truncate, getenv("INTRUDER_FILE"), 0L); }},
    {"ftruncate", [] { return syscall(SYS_ftruncate, -1, 0L); }},
    {"setxattr",
     [] { return syscall(SYS_setxattr, kSecret, "user.x", "", 0, 0); }},
    {"mount",
     [] {
       return syscall(SYS_mount, "none", "/nowhere", "tmpfs", 0, nullptr);
     }},
    {"umount2", [] { return syscall(SYS_umount2, "/nowhere", 0); }},
    {"chroot", [] { return syscall(SYS_chroot, "/"); }},
    {"chdir", [] { return syscall(SYS_chdir, "/"); }},
    {"inotify_init1", [] { return syscall(SYS_inotify_init1, 0); }},
    {"memfd_create", [] { return syscall(SYS_memfd_create, "x", 0); }},
    {"collapse range",
     [] {
       return syscall(SYS_fallocate, -1, FALLOC_FL_COLLAPSE_RANGE, 0L, 1L);
     }},
    {"pwrite", [] { return syscall(SYS_pwrite64, -1, g_page, 1L, 0L); }},
    {"newfstatat",
     [] { return syscall(SYS_newfstatat, AT_FDCWD, kSecret, g_page, 0); }},
    {"newfstatat as fstat",
     [] {
       return syscall(SYS_newfstatat, AT_FDCWD, kSecret, g_page, AT_EMPTY_PATH);
     }},
    // What others may share
    {"read standard error", [] { return syscall(SYS_read, 2, g_page, 1L); }},
    {"write standard output", [] { return syscall(SYS_write, 1, "x", 1L); }},
    {"write export", [] { return syscall(SYS_write, ExportFd(), "x", 1L); }},
    {"pwrite export",
     [] { return syscall(SYS_pwrite64, ExportFd(), "x", 1L, 0L); }},
    {"pwritev2 export",
     [] {
       iovec piece = {const_cast<char*>("x"), 1};
       return syscall(SYS_pwritev2, ExportFd(), &piece, 1L, 0L, 0L, 0L);
     }},
    {"punch export",
     [] {
       return syscall(SYS_fallocate, ExportFd(),
                      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0L, 4096L);
     }},
    {"ftruncate export",
     [] { return syscall(SYS_ftruncate, ExportFd(), 1L << 20); }},
    {"pwrite copy",
     [] { return syscall(SYS_pwrite64, CopyFd(), "x", 1L, 0L); }},
    {"ftruncate copy",
     [] { return syscall(SYS_ftruncate, CopyFd(), 1L << 20); }},
    // The directory of kept copies is the only one.
    {"open neighbour",
     [] { return OpenAt2(DirectoryFd(), "neighbour", O_RDWR); }},
    {"pwrite neighbour",
     [] {
       const long fd = OpenAt2(DirectoryFd(), "neighbour", O_RDWR);
       return syscall(SYS_pwrite64, fd, "x", 1L, 0L);
     }},
    {"unlink neighbour",
     [] { return syscall(SYS_unlinkat, DirectoryFd(), "neighbour", 0); }},
    {"open by copies",
     [] { return OpenAt2(DirectoryFd(), kSecret, O_RDONLY); }},
    {"make by copies",
     [] { return OpenAt2(DirectoryFd(), "/tmp/x", O_RDWR | O_CREAT); }},
    {"link into copies",
     [] {
       return syscall(SYS_linkat, AT_FDCWD, getenv("INTRUDER_FILE"),
                      DirectoryFd(), "stolen", 0);
     }},
    {"unlink by copies",
     [] {
       return syscall(SYS_unlinkat, DirectoryFd(), getenv("INTRUDER_FILE"), 0);
     }},
    {"dup3 elsewhere",
     [] { return syscall(SYS_dup3, ExportFd(), 60, O_CLOEXEC); }},
    {"writev standard output",
     [] {
       iovec piece = {const_cast<char*>("x"), 1};
       return syscall(SYS_writev, 1, &piece, 1);
     }},
    {"sendfile standard output",
     [] {
       off_t offset = 0;
       return syscall(SYS_sendfile, 1, ExportFd(), &offset, 1L);
     }},
    {"sendfile export",
     [] {
       off_t offset = 512;
       return syscall(SYS_sendfile, ExportFd(), ExportFd(), &offset, 1L);
     }},
    {"flags of standard error",
     [] { return syscall(SYS_fcntl, 2, F_SETFL, O_APPEND); }},
    {"shutdown of the manager's socket",
     [] { return syscall(SYS_shutdown, ManagerFd(), SHUT_RDWR); }},
    {"ioctl TIOCOUTQ of standard output",
     [] { return syscall(SYS_ioctl, 1, TIOCOUTQ, g_page); }},
    {"sendmsg",
     [] { return SendDescriptor(ManagerFd(), ExportFd(), nullptr); }},
    {"sendmsg somebody",
     [] {
       return SendDescriptor(ManagerFd(), ExportFd(),
                             getenv("INTRUDER_SOCKET"));
     }},
    {"sendmsg client",
     [] { return SendDescriptor(kClient, ExportFd(), nullptr); }},
    {"recvmsg",
     [] {
       msghdr message = {};
       return syscall(SYS_recvmsg, kClient, &message, MSG_DONTWAIT);
     }},
    // Beneath the directory, or not
    {"beneath: look",
     [] { return OpenAt2(DirectoryFd(), ".", O_RDONLY | O_DIRECTORY); }},
    {"beneath: absolute",
     [] { return OpenAt2(DirectoryFd(), kSecret, O_RDONLY); }},
    {"beneath: up",
     [] { return OpenAt2(DirectoryFd(), "../outside", O_RDONLY); }},
    {"beneath: link", [] { return OpenAt2(DirectoryFd(), "link", O_RDONLY); }},
    {"beneath: create",
     [] { return OpenAt2(DirectoryFd(), "new", O_WRONLY | O_CREAT); }},
    {"beneath: truncate",
     [] { return OpenAt2(DirectoryFd(), "other", O_WRONLY | O_TRUNC); }},
    {"beneath: empty",
     [] { return OpenAt2(DirectoryFd(), "other", O_RDONLY | O_TRUNC); }},
    {"beneath: write", [] { return OpenAt2(DirectoryFd(), "disk", O_WRONLY); }},
    {"beneath: list",
     [] { return syscall(SYS_getdents64, DirectoryFd(), g_page, kPage); }},
    {"beneath: unlink",
     [] { return syscall(SYS_unlinkat, DirectoryFd(), "other", 0); }},
    // Programs and processes
    {"execve",
     [] { return syscall(SYS_execve, kShell[0], kShell, environment()); }},
    {"execveat",
     [] {
       return syscall(SYS_execveat, AT_FDCWD, kShell[0], kShell, environment(),
                      0);
     }},
    {"fork", [] { return Fork(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }},
    {"vfork",
     [] {
       return Fork(syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
     }},
    {"clone3",
     [] {
       clone_args arguments = {};
       arguments.exit_signal = SIGCHLD;
       return Fork(syscall(SYS_clone3, &arguments, sizeof(arguments)));
     }},
    {"unshare", [] { return syscall(SYS_unshare, CLONE_NEWUTS); }},
    {"setns", [] { return syscall(SYS_setns, -1, 0); }},
    {"ptrace", [] { return syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0); }},
    {"process_vm_readv",
     [] {
       iovec from = {const_cast<char*>(kSecret), 4}, to = {g_page, 4};
       return syscall(SYS_process_vm_readv, getpid(), &to, 1L, &from, 1L, 0L);
     }},
    {"kill", [] { return syscall(SYS_kill, Victim(), 0); }},
    {"tgkill", [] { return syscall(SYS_tgkill, Victim(), Victim(), 0); }},
    {"tgkill abort",
     [] { return syscall(SYS_tgkill, Victim(), Victim(), SIGABRT); }},
    {"pidfd_open", [] { return syscall(SYS_pidfd_open, Victim(), 0); }},
    {"pidfd_send_signal",
     [] { return syscall(SYS_pidfd_send_signal, -1, SIGKILL, 0, 0); }},
    {"signal handler",
     [] { return syscall(SYS_rt_sigaction, SIGTERM, nullptr, nullptr, 8); }},
    {"setuid", [] { return syscall(SYS_setuid, -1); }},
    {"setgroups", [] { return syscall(SYS_setgroups, 0, nullptr); }},
    {"capset", [] { return syscall(SYS_capset, nullptr, nullptr); }},
    {"setrlimit", [] { return syscall(SYS_prlimit64, 0, 7, nullptr, g_page); }},
    {"prctl", [] { return syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }},
    {"personality", [] { return syscall(SYS_personality, 0xffffffffUL); }},
    {"seccomp",
     [] { return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, g_page); }},
    {"seccomp listener",
     [] {
       return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                      SECCOMP_FILTER_FLAG_NEW_LISTENER, nullptr);
     }},
    // Memory that can be executed
    {"mmap exec",
     [] {
       return syscall(SYS_mmap, nullptr, kPage, PROT_READ | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
     }},
    {"mmap file",
     [] {
       return syscall(SYS_mmap, nullptr, kPage, PROT_READ, MAP_SHARED, 0, 0L);
     }},
    {"mprotect exec",
     [] {
       return syscall(SYS_mprotect, Page(), kPage, PROT_READ | PROT_EXEC);
     }},
    {"pkey_mprotect",
     [] {
       return syscall(SYS_pkey_mprotect, Page(), kPage, PROT_READ | PROT_EXEC,
                      -1);
     }},
    {"shmget", [] { return syscall(SYS_shmget, 0, kPage, 0600); }},
    // The network
    {"socket", [] { return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }},
    {"socketpair",
     [] { return syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, g_page); }},
    {"connect",
     [] { return syscall(SYS_connect, -1, g_page, sizeof(sockaddr_un)); }},
    {"bind", [] { return syscall(SYS_bind, -1, g_page, sizeof(sockaddr_un)); }},
    {"listen", [] { return syscall(SYS_listen, -1, 1); }},
    {"accept4", [] { return syscall(SYS_accept4, -1, nullptr, nullptr, 0); }},
    {"sendto somebody",
     [] { return syscall(SYS_sendto, -1, g_page, 1L, 0, g_page, 16); }},
    {"setsockopt",
     [] {
       return syscall(SYS_setsockopt, -1, SOL_SOCKET, SO_DEBUG, g_page, 4);
     }},
    {"setsockopt TLS",
     [] {
       return syscall(SYS_setsockopt, kClient, IPPROTO_TCP, TCP_ULP, "tls", 4);
     }},
    {"setsockopt TLS elsewhere",
     [] {
       return syscall(SYS_setsockopt, ManagerFd(), IPPROTO_TCP, TCP_ULP, "tls",
                      4);
     }},
    // The kernel's other doors
    {"io_uring_setup", [] { return syscall(SYS_io_uring_setup, 1, g_page); }},
    {"io_setup", [] { return syscall(SYS_io_setup, 1, g_page); }},
    {"bpf", [] { return syscall(SYS_bpf, 0, g_page, 0); }},
    {"userfaultfd", [] { return syscall(SYS_userfaultfd, 0); }},
    {"perf_event_open",
     [] { return syscall(SYS_perf_event_open, g_page, 0, -1, -1, 0L); }},
    {"add_key", [] { return syscall(SYS_add_key, "user", "x", "x", 1L, -3); }},
    {"init_module", [] { return syscall(SYS_init_module, g_page, 0L, ""); }},
    {"splice",
     [] { return syscall(SYS_splice, -1, nullptr, -1, nullptr, 1L, 0); }},
    {"pipe2", [] { return syscall(SYS_pipe2, g_page, 0); }},
    {"eventfd2", [] { return syscall(SYS_eventfd2, 0, 0); }},
    {"dup", [] { return syscall(SYS_dup, 2); }},
    {"ioctl TIOCSTI", [] { return syscall(SYS_ioctl, 2, TIOCSTI, "x"); }},
    {"ioctl BLKDISCARD",
     [] { return syscall(SYS_ioctl, -1, BLKDISCARD, g_page); }},
    {"ioctl BLKGETSIZE64",
     [] { return syscall(SYS_ioctl, -1, BLKGETSIZE64, g_page); }},
    {"fcntl F_DUPFD", [] { return syscall(SYS_fcntl, 2, F_DUPFD, 0); }},
    {"fcntl F_OFD_SETLK",
     [] { return syscall(SYS_fcntl, -1, F_OFD_SETLK, g_page); }},
    {"unknown", [] { return syscall(4711); }},
    // Not forbidden: that the test sees what is allowed
    {"allowed", [] { return syscall(SYS_getpid); }},
};

// Writes the outcome of the attempt after `step` to `line`; false if there is
// none.
bool TryAfter(const char* step, char (&line)[64]) {
  const char* orders = getenv("NBDINETD_INTRUDER");
  const size_t length = strlen(step);
  if (orders == nullptr || strncmp(orders, step, length) != 0 ||
      orders[length] != ' ')
    return false;
  const char* name = orders + length + 1;
  for (const Attempt& attempt : kAttempts) {
    if (strcmp(attempt.name, name) != 0) continue;
    const long result = attempt.make();
    if (result >= 0) {
      snprintf(line, sizeof(line), "intruder: done");
    } else {
      snprintf(line, sizeof(line), "intruder: error %d", errno);
    }
    return true;
  }
  abort();
}

void Intrude(const char* step) {
  char line[64];
  if (!TryAfter(step, line)) return;
  const size_t size = strlen(line);
  line[size] = '\n';
  [[maybe_unused]] const ssize_t n = write(2, line, size + 1);
}

}  // namespace

// What the linker calls instead (-Wl,--wrap), and the real ones.
using nbdinetd::Sandbox;
absl::Status RealEnterTable() __asm__(
    "__real__ZN8nbdinetd17EnterTableSandboxEv");
absl::Status WrapEnterTable() __asm__(
    "__wrap__ZN8nbdinetd17EnterTableSandboxEv");
absl::Status RealEnter(Sandbox*) __asm__("__real__ZN8nbdinetd7Sandbox5EnterEv");
absl::Status RealTighten(Sandbox*) __asm__(
    "__real__ZN8nbdinetd7Sandbox7TightenEv");
absl::Status WrapEnter(Sandbox*) __asm__("__wrap__ZN8nbdinetd7Sandbox5EnterEv");
absl::Status WrapTighten(Sandbox*) __asm__(
    "__wrap__ZN8nbdinetd7Sandbox7TightenEv");

// NBDINETD_INTRUDER_FREE: the sandbox's steps are not made, so that the test
// sees what it keeps from happening.
absl::Status WrapEnter(Sandbox* sandbox) {
  const bool free = getenv("NBDINETD_INTRUDER_FREE") != nullptr;
  const absl::Status status = free ? absl::OkStatus() : RealEnter(sandbox);
  Intrude("enter");
  return status;
}

absl::Status WrapTighten(Sandbox* sandbox) {
  const bool free = getenv("NBDINETD_INTRUDER_FREE") != nullptr;
  const absl::Status status = free ? absl::OkStatus() : RealTighten(sandbox);
  Intrude("tighten");
  return status;
}

// The process that reads partition tables, which can only answer: its parent
// logs why its sandbox failed.
absl::Status WrapEnterTable() {
  const bool free = getenv("NBDINETD_INTRUDER_FREE") != nullptr;
  const absl::Status status = free ? absl::OkStatus() : RealEnterTable();
  char line[64];
  return TryAfter("table", line) ? absl::InternalError(line) : status;
}
