// Runs a command as an older Linux would: system calls that came later fail
// with ENOSYS, flags that came later with EOPNOTSUPP, and Landlock has the
// version of that kernel.
//
//     as_kernel 6.1 COMMAND ...               all of it
//     as_kernel cachestat,statx COMMAND ...   without these calls
//
// It installs a seccomp filter and becomes the command; all processes that the
// command starts inherit the filter. A filter can't return the version of
// Landlock. A process beside the command answers landlock_create_ruleset() for
// it, and ends after the last process with the filter. What the kernel does
// inside its calls stays that of this kernel, and what this kernel lacks stays
// missing: no Landlock is newer than its own.
//
// Exit status: 64 for wrong usage, 71 if the filter can't be installed,
// otherwise the command's.
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// Numbers that the C library's headers may lack; since Linux 5.1 they are the
// same on all architectures, and grow with time.
enum {
  kPidfdSendSignal = 424,
  kPidfdOpen = 434,
  kCloseRange = 436,
  kOpenat2 = 437,
  kPidfdGetfd = 438,
  kLandlockCreate = 444,
  kLandlockAdd = 445,
  kLandlockRestrict = 446,
  kCachestat = 451,
};

static const char g_name[] = "as_kernel";

static _Noreturn void fail(int status, const char* format, ...) {
  va_list more;
  va_start(more, format);
  fprintf(stderr, "%s: ", g_name);
  vfprintf(stderr, format, more);
  fprintf(stderr, "\n");
  va_end(more);
  _exit(status);
}

// What is missing.
struct Kernel {
  long last_call;      // calls with higher numbers are missing; 0: none
  int landlock;        // the version; 0: missing; -1: this kernel's
  unsigned rwf_flags;  // the flags of preadv2() and pwritev2() that exist
  long calls[16];      // that are missing
  size_t call_count;
};

// Kernels by the last call that they have: set_mempolicy_home_node (450) in
// 6.1, process_mrelease (448) in 5.15, memfd_secret (447) in 5.14, and so on.
static const struct Version {
  const char* name;
  long last_call;
  int landlock;
  unsigned rwf_flags;
} kVersions[] = {
    {"5.10", 440, 0, 0x1f},
    {"5.14", 447, 1, 0x1f},
    {"5.15", 448, 1, 0x1f},
    {"6.1", 450, 2, 0x1f},
    {"6.6", 453, 3, 0x1f},
    // RWF_NOAPPEND came with 6.9, RWF_ATOMIC with 6.11.
    {"6.12", 462, 6, 0x7f},
};

static const struct Call {
  const char* name;
  long numbers[4];
} kCalls[] = {
    {"cachestat", {kCachestat}},
    {"close_range", {kCloseRange}},
    {"landlock", {kLandlockCreate, kLandlockAdd, kLandlockRestrict}},
    {"mincore", {SYS_mincore}},
    {"openat2", {kOpenat2}},
    {"pidfd", {kPidfdSendSignal, kPidfdOpen, kPidfdGetfd}},
    {"statx", {SYS_statx}},
};

static bool take_version(struct Kernel* kernel, const char* word) {
  for (size_t i = 0; i < sizeof(kVersions) / sizeof(kVersions[0]); ++i) {
    const struct Version* version = &kVersions[i];
    if (strcmp(version->name, word) != 0) continue;
    kernel->last_call = version->last_call;
    kernel->landlock = version->landlock;
    kernel->rwf_flags &= version->rwf_flags;
    return true;
  }
  return false;
}

static bool take_call(struct Kernel* kernel, const char* word) {
  for (size_t i = 0; i < sizeof(kCalls) / sizeof(kCalls[0]); ++i) {
    if (strcmp(kCalls[i].name, word) != 0) continue;
    for (const long* number = kCalls[i].numbers; *number != 0; ++number) {
      if (kernel->call_count == sizeof(kernel->calls) / sizeof(long)) {
        fail(64, "too many calls");
      }
      kernel->calls[kernel->call_count++] = *number;
    }
    return true;
  }
  return false;
}

static struct Kernel parse(char* list) {
  struct Kernel kernel = {.landlock = -1, .rwf_flags = ~0u};
  for (char* word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
    if (take_version(&kernel, word) || take_call(&kernel, word)) continue;
    if (strcmp(word, "rwf") == 0) {
      kernel.rwf_flags = 0;
    } else if (sscanf(word, "landlock=%d", &kernel.landlock) != 1) {
      fail(64,
           "'%s' is neither a kernel (5.10, 5.14, 5.15, 6.1, 6.6, 6.12) nor "
           "what one lacks (cachestat, close_range, landlock, landlock=VERSION,"
           " mincore, openat2, pidfd, rwf, statx)",
           word);
    }
  }
  return kernel;
}

// -- The filter

enum { kMaxInstructions = 64 };
struct Filter {
  struct sock_filter code[kMaxInstructions];
  unsigned short length;
};

static void add(struct Filter* filter, struct sock_filter instruction) {
  if (filter->length == kMaxInstructions) abort();
  filter->code[filter->length++] = instruction;
}
static void load(struct Filter* filter, size_t offset) {
  add(filter,
      (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}
// Returns `answer` where the comparison holds.
static void answer_if(struct Filter* filter, unsigned short comparison,
                      uint32_t value, uint32_t answer) {
  add(filter, (struct sock_filter)BPF_JUMP(
                  (unsigned short)(BPF_JMP | comparison | BPF_K), value, 0, 1));
  add(filter, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer));
}

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the architecture's number for seccomp is unknown"
#endif

static void check_rwf_flags(struct Filter* filter, long call,
                            unsigned missing) {
  // Jumps over the next four unless it is this call; the last of them loads the
  // number again for what follows.
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                           (uint32_t)call, 0, 4));
  load(filter, offsetof(struct seccomp_data, args[5]));
  answer_if(filter, BPF_JSET, missing, SECCOMP_RET_ERRNO | EOPNOTSUPP);
  load(filter, offsetof(struct seccomp_data, nr));
}

static struct Filter filter_of(const struct Kernel* kernel) {
  const uint32_t missing = SECCOMP_RET_ERRNO | ENOSYS;
  struct Filter filter = {.length = 0};
  load(&filter, offsetof(struct seccomp_data, arch));
  add(&filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                            OWN_ARCHITECTURE, 1, 0));
  add(&filter,
      (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  load(&filter, offsetof(struct seccomp_data, nr));
  if (kernel->last_call != 0) {
    answer_if(&filter, BPF_JGT, (uint32_t)kernel->last_call, missing);
  }
  for (size_t i = 0; i < kernel->call_count; ++i) {
    answer_if(&filter, BPF_JEQ, (uint32_t)kernel->calls[i], missing);
  }
  if (kernel->landlock == 0) {
    answer_if(&filter, BPF_JEQ, kLandlockCreate, missing);
  } else if (kernel->landlock > 0) {
    answer_if(&filter, BPF_JEQ, kLandlockCreate, SECCOMP_RET_USER_NOTIF);
  }
  if (kernel->rwf_flags != ~0u) {
    check_rwf_flags(&filter, SYS_preadv2, ~kernel->rwf_flags);
    check_rwf_flags(&filter, SYS_pwritev2, ~kernel->rwf_flags);
  }
  add(&filter,
      (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return filter;
}

// Returns the descriptor of the notifications; -1 without `notified`.
static int install(struct Filter* filter, bool notified) {
  const struct sock_fprog program = {filter->length, filter->code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    fail(71, "failed to give up new privileges: %s", strerror(errno));
  }
  const long result =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
              SECCOMP_FILTER_FLAG_SPEC_ALLOW |
                  (notified ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0),
              &program);
  if (result < 0) {
    fail(71, "failed to filter system calls: %s", strerror(errno));
  }
  return notified ? (int)result : -1;
}

// -- Landlock's version

// struct landlock_ruleset_attr of version 6.
struct Ruleset {
  uint64_t fs, net, scoped;
};

static size_t ruleset_size(int version) {
  return version >= 6   ? sizeof(struct Ruleset)
         : version >= 4 ? 2 * sizeof(uint64_t)
                        : sizeof(uint64_t);
}

// Whether a ruleset has only what this version knows.
static bool known(const struct Ruleset* ruleset, int version) {
  const int fs_bits = version >= 5 ? 16 : version >= 3 ? 15 : 12 + version;
  return ruleset->fs >> fs_bits == 0 &&
         ruleset->net >> (version >= 4 ? 2 : 0) == 0 &&
         ruleset->scoped >> (version >= 6 ? 2 : 0) == 0;
}

static void answer(const struct seccomp_notif* call, int version,
                   struct seccomp_notif_resp* response) {
  const __u64* arguments = call->data.args;
  if (arguments[2] == LANDLOCK_CREATE_RULESET_VERSION) {
    response->val = version;
    return;
  }
  if (arguments[1] > ruleset_size(version)) {
    response->error = -E2BIG;
    return;
  }
  struct Ruleset ruleset = {0, 0, 0};
  const struct iovec own = {&ruleset, arguments[1]};
  const struct iovec theirs = {(void*)(uintptr_t)arguments[0], arguments[1]};
  // A process of another user can't be read: it is believed.
  if (process_vm_readv((pid_t)call->pid, &own, 1, &theirs, 1, 0) > 0 &&
      !known(&ruleset, version)) {
    response->error = -EINVAL;
    return;
  }
  response->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
}

// The version of this kernel; 0: it has none.
static int own_landlock(void) {
  const long version = syscall(kLandlockCreate, NULL, (size_t)0,
                               LANDLOCK_CREATE_RULESET_VERSION);
  return version > 0 ? (int)version : 0;
}

// Answers until no process has the filter any more.
static void answer_all(int notifications, int version) {
  struct pollfd event = {notifications, POLLIN, 0};
  while (poll(&event, 1, -1) >= 0 || errno == EINTR) {
    if ((event.revents & POLLIN) == 0) {
      if (event.revents != 0) return;
      continue;
    }
    struct seccomp_notif call;
    memset(&call, 0, sizeof(call));
    if (ioctl(notifications, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) continue;
    struct seccomp_notif_resp response = {.id = call.id};
    answer(&call, version, &response);
    ioctl(notifications, SECCOMP_IOCTL_NOTIF_SEND, &response);
  }
}

// A descriptor as a message on a socket.
union Passed {
  char room[CMSG_SPACE(sizeof(int))];
  struct cmsghdr align;
};

static void pass(int socket, int fd) {
  union Passed passed;
  memset(&passed, 0, sizeof(passed));
  char byte = 0;
  struct iovec piece = {&byte, 1};
  struct msghdr message = {.msg_iov = &piece,
                           .msg_iovlen = 1,
                           .msg_control = passed.room,
                           .msg_controllen = sizeof(passed.room)};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  if (sendmsg(socket, &message, 0) != 1) {
    fail(71, "failed to pass a descriptor: %s", strerror(errno));
  }
}

// -1 when the other side has ended.
static int receive(int socket) {
  union Passed passed;
  char byte;
  struct iovec piece = {&byte, 1};
  struct msghdr message = {.msg_iov = &piece,
                           .msg_iovlen = 1,
                           .msg_control = passed.room,
                           .msg_controllen = sizeof(passed.room)};
  if (recvmsg(socket, &message, 0) != 1) return -1;
  const struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_type != SCM_RIGHTS) return -1;
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return fd;
}

// Starts the process that answers, which is nobody's child and has no
// descriptor of the command's. Returns the socket that takes the descriptor of
// the notifications.
static int start_answering(int version) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    fail(71, "failed to make a socket: %s", strerror(errno));
  }
  const pid_t child = fork();
  if (child < 0) fail(71, "failed to fork: %s", strerror(errno));
  if (child == 0) {
    if (fork() != 0) _exit(0);
    setsid();
    const int socket = dup2(ends[1], 0);
    for (int fd = (int)sysconf(_SC_OPEN_MAX) > 4096 ? 4096 : 1024; fd > 0; --fd)
      close(fd);
    const int notifications = receive(socket);
    close(socket);
    if (notifications >= 0) answer_all(notifications, version);
    _exit(0);
  }
  int status;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  close(ends[1]);
  return ends[0];
}

int main(int argc, char** argv) {
  if (argc < 3) fail(64, "usage: as_kernel KERNEL|CALL,... COMMAND ...");
  struct Kernel kernel = parse(argv[1]);
  if (kernel.landlock > own_landlock()) kernel.landlock = -1;
  const bool notified = kernel.landlock > 0;
  struct Filter filter = filter_of(&kernel);
  const int socket = notified ? start_answering(kernel.landlock) : -1;
  const int notifications = install(&filter, notified);
  if (notified) {
    pass(socket, notifications);
    close(notifications);
    close(socket);
  }
  execvp(argv[2], argv + 2);
  fail(71, "failed to start '%s': %s", argv[2], strerror(errno));
}
