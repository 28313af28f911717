// A file system that fails and stalls when it is told to, for the tests of
// faults.
//
//     eio_fs [--no-fallocate] [--no-lseek] [--sync] [--direct-io]
//     [--fresh-attributes] [--stable=FILE] BACKING MOUNTPOINT
//
// It shows one file, MOUNTPOINT/disk, whose bytes live in BACKING. A real disk
// that fails can't be had in a test, and a preloaded library can't reach what
// the kernel does by itself (a loop device, a read through the page cache), so
// the fault is put where the kernel meets it: below the page cache, in a file
// system of our own.
//
// Commands come in on standard input, one per line, and each is answered by one
// line:
//
//     rule OP ACTION [FROM END [COUNT]]   "ok"; OP is read, write, sync,
//     fallocate, lseek or getattr (a look at the disk's attributes);
//                                         ACTION is the name of an errno in
//                                         small letters, or "hold": the request
//                                         waits until it is released. FROM and
//                                         END bound the bytes that are meant
//                                         (END excluded), COUNT how many
//                                         requests the rule catches.
//     release [OP]                        "ok"; forgets the rules that hold (an
//     OP), and lets go
//                                         what they held
//     clear                               "ok"; forgets all rules and lets go
//     what they held count                               "reads N writes N
//     syncs N fallocates N lseeks N held N"
//
// Holding and releasing, and not a delay: a test of "B is answered while A is
// still waiting" must not depend on how fast the machine is.
//
// With --stable, FILE gets, at each successful sync, what was written since the
// one before. It is what a power cut would have left: the page cache of the
// kernel and BACKING survive the death of a server, so only this tells a flush
// that reached the disk from one that didn't.
//
// With --sync, a sync is one of BACKING, too; without, it writes nothing there
// back.
//
// With --direct-io, reads and writes bypass the kernel's page cache, as where
// other hosts change the file.
//
// With --fresh-attributes, the kernel asks for attributes each time, and not
// once a second.
//
// "ready" on standard output says that the file system is mounted. End of file
// on standard input takes it away again, with whatever is still held, so that a
// test that dies leaves nothing.
//
// Threads: libfuse's workers run the operations; one thread reads the commands.
// The rules, the counters and the map of dirty blocks are guarded by g_mutex.

#define _GNU_SOURCE
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum Op { kRead, kWrite, kSync, kFallocate, kLseek, kGetattr, kOpCount };

static const char* const kOpNames[kOpCount] = {"read",      "write", "sync",
                                               "fallocate", "lseek", "getattr"};

struct ErrorName {
  const char* name;
  int error;
};

static const struct ErrorName kErrorNames[] = {
    {"eio", EIO},     {"enospc", ENOSPC},         {"edquot", EDQUOT},
    {"efbig", EFBIG}, {"einval", EINVAL},         {"enomem", ENOMEM},
    {"erofs", EROFS}, {"eopnotsupp", EOPNOTSUPP},
};

struct Rule {
  enum Op op;
  int error;  // 0: hold
  uint64_t from;
  uint64_t end;
  uint64_t remaining;
};

enum {
  kMaxRules = 64,
  kDirtyBlock = 4096,
  kLineBytes = 256,
  kMaxThreads = 256
};

static const char kDiskPath[] = "/disk";

static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_released = PTHREAD_COND_INITIALIZER;
static struct Rule g_rules[kMaxRules];
static size_t g_rule_count;
static uint64_t g_counts[kOpCount];
static uint64_t g_held;
static uint64_t g_release_numbers[kOpCount];  // grow with each release

static int g_backing = -1;
static bool g_direct_io = false;
static bool g_fresh_attributes = false;
static bool g_syncs_backing;
static int g_stable = -1;
static uint8_t* g_dirty;  // one byte per kDirtyBlock of the disk
static uint64_t g_dirty_blocks;
static struct fuse* g_fuse;

// Counts the request and applies the first rule that catches it. Returns 0 or a
// negative errno.
static int ApplyRules(enum Op op, uint64_t from, uint64_t length) {
  int result = 0;
  pthread_mutex_lock(&g_mutex);
  g_counts[op]++;
  for (size_t i = 0; i < g_rule_count; i++) {
    struct Rule* rule = &g_rules[i];
    if (rule->op != op || rule->remaining == 0) continue;
    if (from >= rule->end || from + length <= rule->from) continue;
    if (rule->remaining != UINT64_MAX) rule->remaining--;
    if (rule->error != 0) {
      result = -rule->error;
    } else {
      const uint64_t before = g_release_numbers[op];
      g_held++;
      while (g_release_numbers[op] == before)
        pthread_cond_wait(&g_released, &g_mutex);
      g_held--;
    }
    break;
  }
  pthread_mutex_unlock(&g_mutex);
  return result;
}

static void MarkDirty(uint64_t from, uint64_t length) {
  if (g_dirty == NULL || length == 0) return;
  pthread_mutex_lock(&g_mutex);
  for (uint64_t block = from / kDirtyBlock;
       block <= (from + length - 1) / kDirtyBlock && block < g_dirty_blocks;
       block++) {
    g_dirty[block] = 1;
  }
  pthread_mutex_unlock(&g_mutex);
}

// Copies the dirty blocks to the stable file. The mutex is held all through: a
// write that comes in meanwhile marks its blocks dirty after us, and so isn't
// lost to the next sync.
static int CopyDirtyToStable(void) {
  int result = 0;
  if (g_dirty == NULL) return 0;
  pthread_mutex_lock(&g_mutex);
  for (uint64_t block = 0; block < g_dirty_blocks && result == 0; block++) {
    char bytes[kDirtyBlock];
    if (!g_dirty[block]) continue;
    g_dirty[block] = 0;
    const off_t offset = (off_t)(block * kDirtyBlock);
    const ssize_t got = pread(g_backing, bytes, sizeof bytes, offset);
    if (got < 0 || pwrite(g_stable, bytes, (size_t)got, offset) != got)
      result = -EIO;
  }
  pthread_mutex_unlock(&g_mutex);
  return result;
}

static bool IsDisk(const char* path) { return strcmp(path, kDiskPath) == 0; }

static void* FsInit(struct fuse_conn_info* conn, struct fuse_config* config) {
  // Without read-ahead the kernel asks for the very pages that were read, so
  // that a rule for one page catches one page.
  conn->max_readahead = 0;
  conn->max_background = kMaxThreads;
  // A changed mtime must not empty the page cache: tests rely on what is cached
  // staying so.
  conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
  config->kernel_cache = 1;
  if (g_fresh_attributes) {
    config->attr_timeout = 0;
    config->entry_timeout = 0;
  }
  return NULL;
}

static int FsGetattr(const char* path, struct stat* attributes,
                     struct fuse_file_info* info) {
  (void)info;
  memset(attributes, 0, sizeof *attributes);
  if (strcmp(path, "/") == 0) {
    attributes->st_mode = S_IFDIR | 0755;
    attributes->st_nlink = 2;
    return 0;
  }
  if (!IsDisk(path)) return -ENOENT;
  const int error = ApplyRules(kGetattr, 0, 1);
  if (error != 0) return error;
  return fstat(g_backing, attributes) == 0 ? 0 : -errno;
}

static int FsReaddir(const char* path, void* buffer, fuse_fill_dir_t fill,
                     off_t offset, struct fuse_file_info* info,
                     enum fuse_readdir_flags flags) {
  (void)path;
  (void)offset;
  (void)info;
  (void)flags;
  fill(buffer, ".", NULL, 0, 0);
  fill(buffer, "..", NULL, 0, 0);
  fill(buffer, kDiskPath + 1, NULL, 0, 0);
  return 0;
}

static int FsOpen(const char* path, struct fuse_file_info* info) {
  info->direct_io = g_direct_io;
  return IsDisk(path) ? 0 : -ENOENT;
}

static int FsTruncate(const char* path, off_t size,
                      struct fuse_file_info* info) {
  (void)path;
  (void)info;
  return ftruncate(g_backing, size) == 0 ? 0 : -errno;
}

static int FsRead(const char* path, char* buffer, size_t size, off_t offset,
                  struct fuse_file_info* info) {
  (void)path;
  (void)info;
  const int error = ApplyRules(kRead, (uint64_t)offset, size);
  if (error != 0) return error;
  const ssize_t got = pread(g_backing, buffer, size, offset);
  return got < 0 ? -errno : (int)got;
}

static int FsWrite(const char* path, const char* buffer, size_t size,
                   off_t offset, struct fuse_file_info* info) {
  (void)path;
  (void)info;
  const int error = ApplyRules(kWrite, (uint64_t)offset, size);
  if (error != 0) return error;
  const ssize_t put = pwrite(g_backing, buffer, size, offset);
  if (put < 0) return -errno;
  MarkDirty((uint64_t)offset, (uint64_t)put);
  return (int)put;
}

static int FsFsync(const char* path, int data_only,
                   struct fuse_file_info* info) {
  (void)path;
  (void)data_only;
  (void)info;
  const int error = ApplyRules(kSync, 0, 1);
  if (error != 0) return error;
  if (g_syncs_backing && fdatasync(g_backing) != 0) return -errno;
  return CopyDirtyToStable();
}

static int FsFallocate(const char* path, int mode, off_t offset, off_t length,
                       struct fuse_file_info* info) {
  (void)path;
  (void)info;
  const int error = ApplyRules(kFallocate, (uint64_t)offset, (uint64_t)length);
  if (error != 0) return error;
  if (fallocate(g_backing, mode, offset, length) != 0) return -errno;
  MarkDirty((uint64_t)offset, (uint64_t)length);
  return 0;
}

static off_t FsLseek(const char* path, off_t offset, int whence,
                     struct fuse_file_info* info) {
  (void)path;
  (void)info;
  const int error = ApplyRules(kLseek, (uint64_t)offset, 1);
  if (error != 0) return error;
  const off_t found = lseek(g_backing, offset, whence);
  return found < 0 ? -errno : found;
}

static struct fuse_operations g_operations = {
    .init = FsInit,
    .getattr = FsGetattr,
    .readdir = FsReaddir,
    .open = FsOpen,
    .truncate = FsTruncate,
    .read = FsRead,
    .write = FsWrite,
    .fsync = FsFsync,
    .fallocate = FsFallocate,
    .lseek = FsLseek,
};

// Drops the rules that hold, or all of them, and wakes what is held: of one
// operation, or of all with kOpCount. The mutex is held.
static void ReleaseLocked(bool all, enum Op op) {
  size_t kept = 0;
  for (size_t i = 0; i < g_rule_count; i++) {
    const bool is_meant = op == kOpCount || g_rules[i].op == op;
    if (!is_meant || (!all && g_rules[i].error != 0))
      g_rules[kept++] = g_rules[i];
  }
  g_rule_count = kept;
  for (int i = 0; i < kOpCount; i++) {
    if (op == kOpCount || (int)op == i) g_release_numbers[i]++;
  }
  pthread_cond_broadcast(&g_released);
}

// kOpCount when there is none of this name.
static enum Op OpOfName(const char* name) {
  for (int i = 0; i < kOpCount; i++) {
    if (strcmp(name, kOpNames[i]) == 0) return (enum Op)i;
  }
  return kOpCount;
}

// Reads what follows the word "rule"; false when it makes no sense.
static bool ParseRule(const char* text, struct Rule* rule) {
  char op[16];
  char action[16];
  rule->from = 0;
  rule->end = UINT64_MAX;
  rule->remaining = UINT64_MAX;
  if (sscanf(text, "%15s %15s %" SCNu64 " %" SCNu64 " %" SCNu64, op, action,
             &rule->from, &rule->end, &rule->remaining) < 2) {
    return false;
  }
  rule->op = OpOfName(op);
  if (rule->op == kOpCount) return false;
  rule->error = 0;
  if (strcmp(action, "hold") == 0) return true;
  for (size_t i = 0; i < sizeof kErrorNames / sizeof kErrorNames[0]; i++) {
    if (strcmp(action, kErrorNames[i].name) == 0)
      rule->error = kErrorNames[i].error;
  }
  return rule->error != 0;
}

// Runs one command; the answer has no newline.
static void RunCommand(const char* line, char* answer, size_t answer_bytes) {
  struct Rule rule;
  pthread_mutex_lock(&g_mutex);
  snprintf(answer, answer_bytes, "ok");
  if (strncmp(line, "rule ", 5) == 0 && ParseRule(line + 5, &rule) &&
      g_rule_count < kMaxRules) {
    g_rules[g_rule_count++] = rule;
  } else if (strcmp(line, "release") == 0) {
    ReleaseLocked(false, kOpCount);
  } else if (strncmp(line, "release ", 8) == 0 &&
             OpOfName(line + 8) != kOpCount) {
    ReleaseLocked(false, OpOfName(line + 8));
  } else if (strcmp(line, "clear") == 0) {
    ReleaseLocked(true, kOpCount);
  } else if (strcmp(line, "count") == 0) {
    snprintf(answer, answer_bytes,
             "reads %" PRIu64 " writes %" PRIu64 " syncs %" PRIu64
             " fallocates %" PRIu64 " lseeks %" PRIu64 " held %" PRIu64,
             g_counts[kRead], g_counts[kWrite], g_counts[kSync],
             g_counts[kFallocate], g_counts[kLseek], g_held);
  } else {
    snprintf(answer, answer_bytes, "error: not understood: %.100s", line);
  }
  pthread_mutex_unlock(&g_mutex);
}

static void* ReadCommands(void* unused) {
  (void)unused;
  char line[kLineBytes];
  char answer[kLineBytes];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    RunCommand(line, answer, sizeof answer);
    printf("%s\n", answer);
    fflush(stdout);
  }
  // The mount goes first, so that nobody new comes in; leaving the process
  // closes /dev/fuse, and the kernel then fails whatever is still held. What
  // libfuse's workers say about the lost device is no news.
  if (freopen("/dev/null", "w", stderr) == NULL) _exit(1);
  fuse_unmount(g_fuse);
  _exit(0);
}

static bool PrepareStable(const char* path) {
  struct stat attributes;
  g_stable = open(path, O_WRONLY | O_CLOEXEC);
  if (g_stable < 0 || fstat(g_backing, &attributes) != 0) return false;
  g_dirty_blocks =
      ((uint64_t)attributes.st_size + kDirtyBlock - 1) / kDirtyBlock;
  g_dirty = calloc(g_dirty_blocks + 1, 1);
  return g_dirty != NULL;
}

static int Fail(const char* what) {
  fprintf(stderr, "eio_fs: %s: %s\n", what, strerror(errno));
  return 1;
}

int main(int argc, char** argv) {
  const char* stable = NULL;
  int argument = 1;
  for (; argument < argc && strncmp(argv[argument], "--", 2) == 0; argument++) {
    if (strcmp(argv[argument], "--no-fallocate") == 0) {
      g_operations.fallocate = NULL;
    } else if (strcmp(argv[argument], "--no-lseek") == 0) {
      g_operations.lseek = NULL;
    } else if (strcmp(argv[argument], "--sync") == 0) {
      g_syncs_backing = true;
    } else if (strcmp(argv[argument], "--direct-io") == 0) {
      g_direct_io = true;
    } else if (strcmp(argv[argument], "--fresh-attributes") == 0) {
      g_fresh_attributes = true;
    } else if (strncmp(argv[argument], "--stable=", 9) == 0) {
      stable = argv[argument] + 9;
    } else {
      break;
    }
  }
  if (argc - argument != 2) {
    fprintf(stderr,
            "usage: eio_fs [--no-fallocate] [--no-lseek] [--sync] "
            "[--direct-io] [--fresh-attributes] [--stable=FILE] BACKING "
            "MOUNTPOINT\n");
    return 2;
  }
  const char* backing = argv[argument];
  const char* mountpoint = argv[argument + 1];

  g_backing = open(backing, O_RDWR | O_CLOEXEC);
  if (g_backing < 0) return Fail(backing);
  if (stable != NULL && !PrepareStable(stable)) return Fail(stable);

  char program[] = "eio_fs";
  char options[] = "-ofsname=eio_fs";
  char* fuse_argv[] = {program, options, NULL};
  struct fuse_args fuse_args = FUSE_ARGS_INIT(2, fuse_argv);
  g_fuse = fuse_new(&fuse_args, &g_operations, sizeof g_operations, NULL);
  if (g_fuse == NULL) return 1;
  if (fuse_mount(g_fuse, mountpoint) != 0) return 1;

  pthread_t commands;
  struct fuse_loop_config* config = fuse_loop_cfg_create();
  if (config == NULL) return Fail("memory");
  fuse_loop_cfg_set_max_threads(config, kMaxThreads);
  fuse_loop_cfg_set_idle_threads(config, kMaxThreads);
  printf("ready\n");
  fflush(stdout);
  if (pthread_create(&commands, NULL, ReadCommands, NULL) != 0)
    return Fail("thread");
  const int result = fuse_loop_mt(g_fuse, config);
  fuse_loop_cfg_destroy(config);
  return result == 0 ? 0 : 1;
}
