"""What tests/nbdinetd-intruder tries (see intruder.cc), and what the sandbox makes of it."""

import errno

from harness import BUILDDIR

INTRUDER = str(BUILDDIR / "tests" / "nbdinetd-intruder")

ENDED = None
# What a library may try without being ended for it, and is refused.
REFUSED = {"open": errno.EACCES, "openat": errno.EACCES, "socket": errno.EACCES,
           "clone3": errno.ENOSYS}
FORBIDDEN = (
    "open", "openat", "openat2", "creat", "open_by_handle_at", "readlink", "access", "statx",
    "unlink", "rename", "link", "symlink", "mkdir", "mknod", "chmod", "fchmod", "chown", "truncate",
    "ftruncate", "setxattr", "mount", "umount2", "chroot", "chdir", "inotify_init1", "memfd_create",
    "collapse range", "newfstatat", "newfstatat as fstat",
    "read standard error", "write standard output", "write export", "writev standard output",
    "sendfile standard output", "sendfile export", "flags of standard error",
    "shutdown of the manager's socket", "ioctl TIOCOUTQ of standard output",
    "sendmsg", "sendmsg somebody", "sendmsg client", "recvmsg",
    "execve", "execveat", "fork", "vfork", "clone3", "unshare", "setns", "ptrace",
    "process_vm_readv", "kill", "tgkill", "tgkill abort", "pidfd_open", "pidfd_send_signal",
    "signal handler", "setuid", "setgroups", "capset", "setrlimit", "prctl", "personality", "seccomp",
    "seccomp listener",
    "mmap exec", "mmap file", "mprotect exec", "pkey_mprotect", "shmget",
    "socket", "socketpair", "connect", "bind", "listen", "accept4", "sendto somebody", "setsockopt",
    "setsockopt TLS", "setsockopt TLS elsewhere",
    "io_uring_setup", "io_setup", "bpf", "userfaultfd", "perf_event_open", "add_key", "init_module",
    "splice", "pipe2", "eventfd2", "dup", "ioctl TIOCSTI", "ioctl BLKDISCARD", "ioctl BLKGETSIZE64",
    "fcntl F_DUPFD", "unknown")
