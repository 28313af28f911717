#include "unit/export/recorder.h"

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace nbdtest {
namespace {

constexpr size_t kSector = 512;

// Whether this call is one of those that are to fail, after the good ones.
bool Fails(int fd, std::atomic<int>& good, std::atomic<int>& left) {
  if (Recorder::faults.fd != fd) return false;
  if (good.load() > 0) {
    --good;
    return false;
  }
  if (left.load() <= 0) return false;
  --left;
  return true;
}

bool WriteFails(int fd) {
  return Fails(fd, Recorder::faults.good_writes,
               Recorder::faults.failed_writes);
}

void AddWrite(StorageEvent::Kind kind, int fd, off_t offset, const void* data,
              ssize_t size) {
  Recorder* const recorder = Recorder::active();
  if (recorder == nullptr || size <= 0) return;
  recorder->Add({.kind = kind,
                 .fd = fd,
                 .offset = static_cast<uint64_t>(offset),
                 .bytes = std::string(static_cast<const char*>(data),
                                      static_cast<size_t>(size))});
}

bool IsOf(const StorageEvent& event, int fd) {
  return fd == -1 || event.fd == fd;
}

// Whether a sync before event `end` has made event `i` durable.
bool IsDurable(const std::vector<StorageEvent>& events, size_t i, size_t end,
               int fd) {
  for (size_t k = i + 1; k < end; ++k) {
    if (!IsOf(events[k], fd)) continue;
    if (events[k].kind == StorageEvent::Kind::kFailedSync) return false;
    if (events[k].kind == StorageEvent::Kind::kSync && i < events[k].begin) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string Killed(std::string file, const std::vector<StorageEvent>& events,
                   size_t end) {
  for (size_t i = 0; i < end; ++i) {
    file.replace(events[i].offset, events[i].bytes.size(), events[i].bytes);
  }
  return file;
}

std::string CutOff(std::string file, const std::vector<StorageEvent>& events,
                   size_t end, std::mt19937_64& random, int fd) {
  const unsigned mood = random() % 4;
  for (size_t i = 0; i < end; ++i) {
    const StorageEvent& event = events[i];
    if (!IsOf(event, fd) || event.bytes.empty()) continue;
    const bool holds = event.kind == StorageEvent::Kind::kDurableWrite ||
                       IsDurable(events, i, end, fd);
    for (size_t at = 0; at < event.bytes.size();) {
      const size_t place = event.offset + at;
      const size_t part =
          std::min(kSector - place % kSector, event.bytes.size() - at);
      // All, none, or any.
      if (holds || mood == 0 || (mood > 1 && random() % 2 == 0)) {
        file.replace(place, part, event.bytes, at, part);
      }
      at += part;
    }
  }
  return file;
}

std::string Stored(std::string file, const std::vector<StorageEvent>& events,
                   int fd) {
  for (size_t i = 0; i < events.size(); ++i) {
    const StorageEvent& event = events[i];
    if (!IsOf(event, fd) || event.bytes.empty()) continue;
    if (event.kind == StorageEvent::Kind::kDurableWrite ||
        IsDurable(events, i, events.size(), fd)) {
      file.replace(event.offset, event.bytes.size(), event.bytes);
    }
  }
  return file;
}

}  // namespace nbdtest

extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): the linker's names for --wrap.
ssize_t __real_pwrite(int fd, const void* data, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void* data, size_t size, off_t offset);
ssize_t __real_pwritev2(int fd, const iovec* pieces, int count, off_t offset,
                        int flags);
ssize_t __wrap_pwritev2(int fd, const iovec* pieces, int count, off_t offset,
                        int flags);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_futimens(int fd, const timespec* times);
int __wrap_futimens(int fd, const timespec* times);

ssize_t __wrap_pwrite(int fd, const void* data, size_t size, off_t offset) {
  using namespace nbdtest;  // NOLINT(google-build-using-namespace)
  if (WriteFails(fd)) {
    errno = EIO;
    return -1;
  }
  const ssize_t n = __real_pwrite(fd, data, size, offset);
  AddWrite(StorageEvent::Kind::kWrite, fd, offset, data, n);
  return n;
}

ssize_t __wrap_pwritev2(int fd, const iovec* pieces, int count, off_t offset,
                        int flags) {
  using namespace nbdtest;  // NOLINT(google-build-using-namespace)
  const ssize_t n = __real_pwritev2(fd, pieces, count, offset, flags);
  if (count == 1) {
    AddWrite((flags & RWF_DSYNC) != 0 ? StorageEvent::Kind::kDurableWrite
                                      : StorageEvent::Kind::kWrite,
             fd, offset, pieces->iov_base, n);
  }
  return n;
}

int __wrap_fdatasync(int fd) {
  using namespace nbdtest;  // NOLINT(google-build-using-namespace)
  Recorder* const recorder = Recorder::active();
  const bool fails =
      Fails(fd, Recorder::faults.good_syncs, Recorder::faults.failed_syncs);
  if (recorder != nullptr) {
    recorder->Add({.kind = fails ? StorageEvent::Kind::kFailedSync
                                 : StorageEvent::Kind::kSync,
                   .fd = fd,
                   .begin = recorder->size()});
  }
  if (fails) {
    errno = EIO;
    return -1;
  }
  return recorder != nullptr || Recorder::skips_syncs ? 0
                                                      : __real_fdatasync(fd);
}

int __wrap_fsync(int fd) {
  using namespace nbdtest;  // NOLINT(google-build-using-namespace)
  Recorder* const recorder = Recorder::active();
  if (recorder != nullptr) {
    recorder->Add({.kind = StorageEvent::Kind::kFullSync, .fd = fd});
  }
  return recorder != nullptr || Recorder::skips_syncs ? 0 : __real_fsync(fd);
}

int __wrap_futimens(int fd, const timespec* times) {
  if (times == nullptr && nbdtest::Recorder::stops_clock) return 0;
  return __real_futimens(fd, times);
}
// NOLINTEND(bugprone-reserved-identifier)
}
