// A library to preload, which makes calls of the C library fail when a test
// says so.
//
// NBDINETD_FAULTS names a file of struct Control, made by the test, in which
// calls are counted (by all processes that share it: a listener and those that
// it forks), and which says what fails: the `nth` call of the function `name`
// and the `times - 1` after it give `error` instead of being made. `fired`
// counts how often that was. `syncs` counts the calls that made something
// durable, so that a test can tell an honest reply to a flush.
//
// Besides, or without that file, at random, one time in N each:
//     NBDINETD_SHORTEN=N    reading and writing calls move fewer bytes than
//     they were asked to NBDINETD_INTERRUPT=N  calls that can be interrupted
//     give EINTR, and those that were told
//                           not to wait EAGAIN
//     NBDINETD_STORAGE_ERRORS=N  calls on a file give EIO or ENOSPC
//     NBDINETD_CONNECTION_ERRORS=N  calls on the peer give ECONNRESET or EPIPE
//
// NBDINETD_FILE_SYSTEM=MAGIC is what fstatfs(2) says of the file system's type,
// as a decimal number, for those that the kernel lacks.
//
// It also tells valgrind, which knows only the head of FS_IOC_FIEMAP's answer,
// of the extents behind it.
//
// Only what the program calls by name is seen, not what the C library does
// inside. Nothing here makes a system call of its own once the program runs, so
// that a sandbox has no say in it.

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#else
#define VALGRIND_MAKE_MEM_DEFINED(address, length) 0
#endif

enum { kNameBytes = 24, kMaxCalls = 120 };

struct Counter {
  char name[kNameBytes];
  uint64_t calls;
};

struct Control {
  char name[kNameBytes];
  uint64_t error;
  uint64_t nth;  // from 1
  uint64_t times;
  uint64_t fired;
  uint64_t syncs;
  struct Counter counters[kMaxCalls];
};

static struct Control g_own_control;
static struct Control* g_control = &g_own_control;
static uint64_t g_shorten, g_interrupt, g_storage_errors, g_connection_errors;
static uint64_t g_file_system;
static __thread uint64_t g_random;

static uint64_t number(const char* variable) {
  const char* text = getenv(variable);
  return text == NULL ? 0 : strtoull(text, NULL, 0);
}

__attribute__((constructor)) static void start(void) {
  // What comes before the program under test is spared: the shell, valgrind,
  // as_kernel.
  if (strcmp(program_invocation_short_name, "as_kernel") == 0) return;
  const char* program = getenv("NBDINETD_UNDER_VALGRIND");
  if (program != NULL && strcmp(program_invocation_name, program) != 0) return;
  g_shorten = number("NBDINETD_SHORTEN");
  g_file_system = number("NBDINETD_FILE_SYSTEM");
  g_interrupt = number("NBDINETD_INTERRUPT");
  g_storage_errors = number("NBDINETD_STORAGE_ERRORS");
  g_connection_errors = number("NBDINETD_CONNECTION_ERRORS");
  const char* path = getenv("NBDINETD_FAULTS");
  if (path == NULL) return;
  // By its number, so that it isn't counted, and the wrappers below aren't
  // asked.
  const int fd =
      (int)syscall(257 /* openat */, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  if (fd < 0) abort();
  void* memory = (void*)syscall(9 /* mmap */, NULL, sizeof(struct Control),
                                (long)(PROT_READ | PROT_WRITE),
                                (long)MAP_SHARED, (long)fd, 0L);
  if (memory == MAP_FAILED) abort();
  syscall(3 /* close */, fd);
  g_control = memory;
}

// One time in n; never for 0.
static bool chance(uint64_t n) {
  if (n == 0) return false;
  if (g_random == 0)
    g_random = (uint64_t)(uintptr_t)&g_random ^ (uint64_t)getpid() << 32;
  g_random ^= g_random << 13;
  g_random ^= g_random >> 7;
  g_random ^= g_random << 17;
  return (g_random >> 20) % n == 0;
}

enum Kind {
  kOther = 0,
  kInterruptible = 1,
  kMayNotWait = 2,
  kStorage = 4,
  kConnection = 8
};

// The error that this call has to give instead of being made, or 0.
static int fault(struct Counter** counter, const char* name, int kind) {
  if (*counter == NULL) {
    for (int i = 0; i < kMaxCalls; ++i) {
      struct Counter* entry = &g_control->counters[i];
      // Two threads may be here at once, or two processes: who finds the name,
      // wins.
      if (entry->name[0] == '\0') strncpy(entry->name, name, kNameBytes - 1);
      if (strcmp(entry->name, name) == 0) {
        *counter = entry;
        break;
      }
    }
    if (*counter == NULL) abort();
  }
  const uint64_t n =
      __atomic_add_fetch(&(*counter)->calls, 1, __ATOMIC_SEQ_CST);
  if (strcmp(g_control->name, name) == 0 && n >= g_control->nth &&
      n < g_control->nth + g_control->times) {
    __atomic_add_fetch(&g_control->fired, 1, __ATOMIC_SEQ_CST);
    return (int)g_control->error;
  }
  if ((kind & kMayNotWait) != 0 && chance(g_interrupt)) return EAGAIN;
  if ((kind & kInterruptible) != 0 && chance(g_interrupt)) return EINTR;
  if ((kind & kStorage) != 0 && chance(g_storage_errors))
    return chance(2) ? EIO : ENOSPC;
  if ((kind & kConnection) != 0 && chance(g_connection_errors))
    return chance(2) ? ECONNRESET : EPIPE;
  return 0;
}

static void note_sync(bool done) {
  if (done) __atomic_add_fetch(&g_control->syncs, 1, __ATOMIC_SEQ_CST);
}

// A length between 1 and itself. Those of an eventfd, or of a signalfd, have to
// stay.
static size_t shortened(size_t length) {
  if (length < 2 || length == sizeof(uint64_t) ||
      length == sizeof(struct signalfd_siginfo) || !chance(g_shorten)) {
    return length;
  }
  chance(1);  // the next number
  return 1 + (g_random >> 8) % length;
}

// Whether a descriptor was opened with O_DIRECT; a sandbox forbids to ask for
// its flags.
enum { kMaxDescriptors = 1024 };
static bool g_direct[kMaxDescriptors];

static void note_open(int fd, int flags) {
  if (fd >= 0 && fd < kMaxDescriptors) g_direct[fd] = (flags & O_DIRECT) != 0;
}

// The same for a call on a file. Beside the page cache (O_DIRECT), the kernel
// moves whole blocks.
static size_t shortened_for(int fd, size_t length) {
  enum { kBlock = 4096 };
  const size_t shorter = shortened(length);
  if (fd < 0 || fd >= kMaxDescriptors || !g_direct[fd]) return shorter;
  return shorter < kBlock || shorter == length ? length
                                               : shorter - shorter % kBlock;
}

enum { kMaxPieces = 64 };

// Copies pieces so that their sum is shortened; the number of them.
static int shorten_pieces(int fd, const struct iovec* pieces, int count,
                          struct iovec* out) {
  size_t sum = 0;
  if (count > kMaxPieces) count = kMaxPieces;
  for (int i = 0; i < count; ++i) sum += pieces[i].iov_len;
  size_t left = shortened_for(fd, sum);
  int used = 0;
  for (; used < count && (left > 0 || used == 0); ++used) {
    out[used] = pieces[used];
    if (out[used].iov_len > left) out[used].iov_len = left;
    left -= out[used].iov_len;
  }
  return used;
}

#define REAL(name)               \
  static __typeof__(&name) real; \
  if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

// What every wrapper begins with: `failed` is returned with errno set.
#define BEGIN(name, kind, failed)                 \
  REAL(name);                                     \
  static struct Counter* counter;                 \
  const int error = fault(&counter, #name, kind); \
  if (error != 0) {                               \
    errno = error;                                \
    return failed;                                \
  }

#define WRAP(result, name, kind, parameters, arguments) \
  result name parameters {                              \
    BEGIN(name, kind, (result)(-1))                     \
    return real arguments;                              \
  }

// -- Bytes to and from the peer, and whatever else is a stream

ssize_t read(int fd, void* buffer, size_t size) {
  BEGIN(read, kInterruptible | kConnection, -1)
  return real(fd, buffer, shortened(size));
}
ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room) {
  if (size > room) abort();
  return read(fd, buffer, size);
}
ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  BEGIN(recv,
        kInterruptible | kConnection |
            ((flags & MSG_DONTWAIT) != 0 ? kMayNotWait : 0),
        -1)
  return real(fd, buffer, shortened(size), flags);
}
ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags) {
  if (size > room) abort();
  return recv(fd, buffer, size, flags);
}
ssize_t send(int fd, const void* buffer, size_t size, int flags) {
  BEGIN(send,
        kInterruptible | kConnection |
            ((flags & MSG_DONTWAIT) != 0 ? kMayNotWait : 0),
        -1)
  return real(fd, buffer, shortened(size), flags);
}
ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  BEGIN(sendmsg,
        message->msg_name != NULL
            ? kInterruptible
            : kInterruptible | kConnection |
                  ((flags & MSG_DONTWAIT) != 0 ? kMayNotWait : 0),
        -1)
  // A datagram must stay whole.
  if (message->msg_name != NULL) return real(fd, message, flags);
  struct iovec pieces[kMaxPieces];
  struct msghdr shorter = *message;
  shorter.msg_iovlen = (size_t)shorten_pieces(fd, message->msg_iov,
                                              (int)message->msg_iovlen, pieces);
  shorter.msg_iov = pieces;
  return real(fd, &shorter, flags);
}
WRAP(ssize_t, recvmsg, kInterruptible,
     (int fd, struct msghdr* message, int flags), (fd, message, flags))
ssize_t write(int fd, const void* buffer, size_t size) {
  BEGIN(write, kInterruptible, -1)
  return real(fd, buffer, fd == 2 ? size : shortened(size));
}
ssize_t writev(int fd, const struct iovec* pieces, int count) {
  BEGIN(writev, kInterruptible | kConnection, -1)
  struct iovec shorter[kMaxPieces];
  return real(fd, shorter, shorten_pieces(fd, pieces, count, shorter));
}
ssize_t sendfile(int out, int in, off_t* offset, size_t count) {
  BEGIN(sendfile, kInterruptible | kMayNotWait | kConnection, -1)
  return real(out, in, offset, shortened(count));
}
ssize_t splice(int in, off64_t* in_offset, int out, off64_t* out_offset,
               size_t length, unsigned flags) {
  BEGIN(splice, kInterruptible | kMayNotWait | kConnection, -1)
  return real(in, in_offset, out, out_offset, shortened(length), flags);
}
int poll(struct pollfd* fds, nfds_t count, int timeout) {
  BEGIN(poll, kInterruptible, -1)
  return real(fds, count, timeout);
}
int __poll_chk(struct pollfd* fds, nfds_t count, int timeout, size_t room) {
  if (count * sizeof(*fds) > room) abort();
  return poll(fds, count, timeout);
}
WRAP(int, ppoll, kInterruptible,
     (struct pollfd * fds, nfds_t count, const struct timespec* timeout,
      const sigset_t* mask),
     (fds, count, timeout, mask))
WRAP(int, epoll_create1, kOther, (int flags), (flags))
WRAP(int, epoll_ctl, kOther,
     (int epoll, int operation, int fd, struct epoll_event* event),
     (epoll, operation, fd, event))
WRAP(int, epoll_wait, kInterruptible,
     (int epoll, struct epoll_event* events, int max, int timeout),
     (epoll, events, max, timeout))
WRAP(int, shutdown, kOther, (int fd, int how), (fd, how))

// -- The file

ssize_t pread(int fd, void* buffer, size_t size, off_t offset) {
  BEGIN(pread, kInterruptible | kStorage, -1)
  return real(fd, buffer, shortened_for(fd, size), offset);
}
ssize_t __pread_chk(int fd, void* buffer, size_t size, off_t offset,
                    size_t room) {
  if (size > room) abort();
  return pread(fd, buffer, size, offset);
}
ssize_t preadv(int fd, const struct iovec* pieces, int count, off_t offset) {
  BEGIN(preadv, kInterruptible | kStorage, -1)
  struct iovec shorter[kMaxPieces];
  return real(fd, shorter, shorten_pieces(fd, pieces, count, shorter), offset);
}
ssize_t preadv2(int fd, const struct iovec* pieces, int count, off_t offset,
                int flags) {
  BEGIN(
      preadv2,
      kInterruptible | kStorage | ((flags & RWF_NOWAIT) != 0 ? kMayNotWait : 0),
      -1)
  struct iovec shorter[kMaxPieces];
  return real(fd, shorter, shorten_pieces(fd, pieces, count, shorter), offset,
              flags);
}
ssize_t pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  BEGIN(pwrite, kInterruptible | kStorage, -1)
  return real(fd, buffer, shortened_for(fd, size), offset);
}
ssize_t pwritev2(int fd, const struct iovec* pieces, int count, off_t offset,
                 int flags) {
  BEGIN(pwritev2, kInterruptible | kStorage, -1)
  struct iovec shorter[kMaxPieces];
  const ssize_t n = real(
      fd, shorter, shorten_pieces(fd, pieces, count, shorter), offset, flags);
  note_sync(n > 0 && (flags & (RWF_DSYNC | RWF_SYNC)) != 0);
  return n;
}
int fdatasync(int fd) {
  BEGIN(fdatasync, kInterruptible | kStorage, -1)
  const int result = real(fd);
  note_sync(result == 0);
  return result;
}
int fsync(int fd) {
  BEGIN(fsync, kInterruptible | kStorage, -1)
  const int result = real(fd);
  note_sync(result == 0);
  return result;
}
WRAP(int, sync_file_range, kStorage,
     (int fd, off64_t offset, off64_t length, unsigned flags),
     (fd, offset, length, flags))
WRAP(int, fallocate, kInterruptible | kStorage,
     (int fd, int mode, off_t offset, off_t length), (fd, mode, offset, length))
WRAP(off_t, lseek, kStorage, (int fd, off_t offset, int whence),
     (fd, offset, whence))
WRAP(int, ftruncate, kStorage, (int fd, off_t length), (fd, length))
WRAP(int, memfd_create, kOther, (const char* name, unsigned flags),
     (name, flags))
WRAP(int, flock, kOther, (int fd, int operation), (fd, operation))
WRAP(int, fstat, kOther, (int fd, struct stat* st), (fd, st))
WRAP(int, lstat, kOther, (const char* path, struct stat* st), (path, st))
WRAP(ssize_t, readlink, kOther, (const char* path, char* target, size_t size),
     (path, target, size))
int fstatfs(int fd, struct statfs* st) {
  BEGIN(fstatfs, kOther, -1)
  const int result = real(fd, st);
  if (result == 0 && g_file_system != 0) st->f_type = (long)g_file_system;
  return result;
}

// Of a file: what takes memory is malloc's business.
void* mmap(void* address, size_t length, int protection, int flags, int fd,
           off_t offset) {
  REAL(mmap);
  static struct Counter* counter;
  const int error = fd >= 0 ? fault(&counter, "mmap", kOther) : 0;
  if (error == 0) return real(address, length, protection, flags, fd, offset);
  errno = error;
  return MAP_FAILED;
}
WRAP(int, mincore, kOther,
     (void* address, size_t length, unsigned char* states),
     (address, length, states))

// These return their error.
int posix_fadvise(int fd, off_t offset, off_t length, int advice) {
  REAL(posix_fadvise);
  static struct Counter* counter;
  const int error = fault(&counter, "posix_fadvise", kOther);
  return error != 0 ? error : real(fd, offset, length, advice);
}
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                   void* (*run)(void*), void* argument) {
  REAL(pthread_create);
  static struct Counter* counter;
  const int error = fault(&counter, "pthread_create", kOther);
  return error != 0 ? error : real(thread, attributes, run, argument);
}
int pthread_sigmask(int how, const sigset_t* set, sigset_t* old) {
  REAL(pthread_sigmask);
  static struct Counter* counter;
  const int error = fault(&counter, "pthread_sigmask", kOther);
  return error != 0 ? error : real(how, set, old);
}

// -- Those that take anything

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  BEGIN(open, kOther, -1)
  const int fd = real(path, flags, mode);
  note_open(fd, flags);
  return fd;
}
int __open_2(const char* path, int flags) { return open(path, flags, 0); }
int openat(int folder, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  BEGIN(openat, kOther, -1)
  return real(folder, path, flags, mode);
}
int fcntl(int fd, int command, ...) {
  va_list more;
  va_start(more, command);
  const long argument = va_arg(more, long);
  va_end(more);
  REAL(fcntl);
  // Of an open descriptor all the others succeed.
  if (command != F_DUPFD && command != F_DUPFD_CLOEXEC)
    return real(fd, command, argument);
  static struct Counter* counter;
  const int error = fault(&counter, "fcntl", kOther);
  if (error == 0) return real(fd, command, argument);
  errno = error;
  return -1;
}
int prctl(int option, ...) {
  va_list more;
  va_start(more, option);
  long argument[4];
  for (int i = 0; i < 4; ++i) argument[i] = va_arg(more, long);
  va_end(more);
  BEGIN(prctl, kOther, -1)
  return real(option, argument[0], argument[1], argument[2], argument[3]);
}
int ioctl(int fd, unsigned long request, ...) {
  va_list more;
  va_start(more, request);
  const long argument = va_arg(more, long);
  va_end(more);
  BEGIN(ioctl, kOther, -1)
  const int result = real(fd, request, argument);
  if (result == 0 && request == FS_IOC_FIEMAP) {
    const struct fiemap* map = (const struct fiemap*)argument;
    (void)VALGRIND_MAKE_MEM_DEFINED(
        map->fm_extents, map->fm_mapped_extents * sizeof(map->fm_extents[0]));
  }
  return result;
}
long syscall(long number, ...) {
  va_list more;
  va_start(more, number);
  long arguments[6];
  for (int i = 0; i < 6; ++i) arguments[i] = va_arg(more, long);
  va_end(more);
  REAL(syscall);
  static struct Counter* counter;
  // Those that start() makes come before there is anything to fail.
  if (real == NULL) abort();
  if (g_control != &g_own_control || number > 300) {
    const int error = fault(&counter, "syscall", kOther);
    if (error != 0) {
      errno = error;
      return -1;
    }
  }
  return real(number, arguments[0], arguments[1], arguments[2], arguments[3],
              arguments[4], arguments[5]);
}

// The descriptor is gone even when closing it fails.
int close(int fd) {
  REAL(close);
  static struct Counter* counter;
  const int error = fault(&counter, "close", kOther);
  const int result = real(fd);
  if (error == 0) return result;
  errno = error;
  return -1;
}

// -- What a process is made of

WRAP(int, accept4, kInterruptible,
     (int fd, struct sockaddr* address, socklen_t* length, int flags),
     (fd, address, length, flags))
WRAP(int, socket, kOther, (int family, int type, int protocol),
     (family, type, protocol))
WRAP(int, socketpair, kOther, (int family, int type, int protocol, int fds[2]),
     (family, type, protocol, fds))
WRAP(int, bind, kOther,
     (int fd, const struct sockaddr* address, socklen_t length),
     (fd, address, length))
WRAP(int, listen, kOther, (int fd, int backlog), (fd, backlog))
WRAP(int, connect, kOther,
     (int fd, const struct sockaddr* address, socklen_t length),
     (fd, address, length))
WRAP(int, getsockopt, kOther,
     (int fd, int level, int name, void* value, socklen_t* length),
     (fd, level, name, value, length))
WRAP(int, setsockopt, kOther,
     (int fd, int level, int name, const void* value, socklen_t length),
     (fd, level, name, value, length))
WRAP(int, getsockname, kOther,
     (int fd, struct sockaddr* address, socklen_t* length),
     (fd, address, length))
WRAP(int, getpeername, kOther,
     (int fd, struct sockaddr* address, socklen_t* length),
     (fd, address, length))
WRAP(int, dup2, kInterruptible, (int from, int to), (from, to))
WRAP(int, dup3, kInterruptible, (int from, int to, int flags),
     (from, to, flags))
WRAP(int, pipe2, kOther, (int fds[2], int flags), (fds, flags))
WRAP(int, eventfd, kOther, (unsigned value, int flags), (value, flags))
WRAP(int, eventfd_read, kOther, (int fd, eventfd_t* value), (fd, value))
WRAP(int, eventfd_write, kOther, (int fd, eventfd_t value), (fd, value))
WRAP(int, signalfd, kOther, (int fd, const sigset_t* mask, int flags),
     (fd, mask, flags))
WRAP(int, sigprocmask, kOther, (int how, const sigset_t* set, sigset_t* old),
     (how, set, old))
WRAP(pid_t, fork, kOther, (void), ())
// Never interrupted: it is told not to wait.
WRAP(pid_t, waitpid, kOther, (pid_t pid, int* status, int options),
     (pid, status, options))
WRAP(pid_t, setsid, kOther, (void), ())
WRAP(int, setrlimit, kOther,
     (__rlimit_resource_t resource, const struct rlimit* limit),
     (resource, limit))
WRAP(int, unlink, kOther, (const char* path), (path))
WRAP(int, unlinkat, kOther, (int directory, const char* path, int flags),
     (directory, path, flags))
WRAP(int, linkat, kOther,
     (int from, const char* old_path, int to, const char* path, int flags),
     (from, old_path, to, path, flags))
WRAP(int, renameat2, kOther,
     (int from, const char* old_path, int to, const char* path, unsigned flags),
     (from, old_path, to, path, flags))
WRAP(int, chdir, kOther, (const char* path), (path))
