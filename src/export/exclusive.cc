#include "export/exclusive.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

// The first of the bytes. A lock that ended at the very last offset would
// extend to the end of the file, however large.
constexpr off_t kFirstByte = std::numeric_limits<off_t>::max() - 0xffff;
// Every fourth byte from here on is that of the holders on some hosts.
constexpr off_t kFirstHolder = kFirstByte + 0x1001;
constexpr off_t kHostBytes = 0x3000;
constexpr off_t kHostStep = 4;

// FNV-1a.
uint64_t HashOf(const char* name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (; *name != '\0'; ++name) {
    hash = (hash ^ static_cast<unsigned char>(*name)) * 0x100000001b3u;
  }
  return hash;
}

// The number of attempts of candidates that meet, and the longest pause between
// them. A candidate holds its byte for a few system calls only.
constexpr int kMeetings = 20;
constexpr long kMaxMeetingPauseNs = 1'000'000;

// Of a process to be known as the holder, with such pauses between them;
// without it, a takeover finds nobody to signal.
constexpr int kHolderAttempts = 500;

// Since Linux 5.3; glibc has these functions since 2.36.
int PidfdOpen(pid_t pid) {
  return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
}
int PidfdSendSignal(int pidfd, int number) {
  return static_cast<int>(
      syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0));
}

// Sleeps up to kMaxMeetingPauseNs. The clock's nanoseconds and the process id
// make the pauses of two processes differ.
void PauseALittle() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const auto mixed = (static_cast<uint64_t>(now.tv_nsec) ^
                      (static_cast<uint64_t>(getpid()) << 20)) *
                     0x9e3779b97f4a7c15u;
  const timespec pause = {
      0, static_cast<long>((mixed >> 32) % kMaxMeetingPauseNs)};
  nanosleep(&pause, nullptr);
}

bool HasEnded(int pidfd) {
  pollfd fd = {pidfd, POLLIN, 0};
  return poll(&fd, 1, 0) == 1;
}

// How often a holder is out of reach before that is believed: a file system may
// release the locks of a process only after its end (FUSE does), and the
// process id then means nothing. The caller's pauses are some 0.7 s together.
constexpr int kLooksOutOfReach = 20;

// Another process has the lock; POSIX allows both errno values.
bool IsHeld(int error) { return error == EAGAIN || error == EACCES; }

}  // namespace

ExclusiveLock::ExclusiveLock(const Export& target)
    : fd_(target.lock_fd()), read_only_(target.lock_fd_is_read_only()) {}

constexpr ExclusiveLock::Bytes ExclusiveLock::kOwner = {kFirstByte, 1};
constexpr ExclusiveLock::Bytes ExclusiveLock::kCandidate = {kFirstByte + 2, 1};
constexpr ExclusiveLock::Bytes ExclusiveLock::kHolders = {
    kFirstHolder, kHostBytes* kHostStep};

ExclusiveLock::Bytes ExclusiveLock::Holder() {
  utsname host = {};
  uname(&host);
  const auto number = static_cast<off_t>(HashOf(host.nodename) % kHostBytes);
  return {kFirstHolder + number * kHostStep, 1};
}

int ExclusiveLock::Set(int command, Bytes bytes, short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = bytes.first;
  lock.l_len = bytes.count;
  return fcntl(fd_, command, &lock) == 0 ? 0 : errno;
}

std::optional<pid_t> ExclusiveLock::FindOther(int command, Bytes bytes,
                                              int* error) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = bytes.first;
  lock.l_len = bytes.count;
  *error = fcntl(fd_, command, &lock) == 0 ? 0 : errno;
  if (*error != 0 || lock.l_type == F_UNLCK) return std::nullopt;
  return lock.l_pid;
}

std::optional<pid_t> ExclusiveLock::HolderOf(int fd) {
  ExclusiveLock lock(fd);
  int error = 0;
  if (!lock.FindOther(F_OFD_GETLK, kOwner, &error).has_value()) {
    return std::nullopt;
  }
  const std::optional<pid_t> pid = lock.FindOther(F_GETLK, Holder(), &error);
  return pid.has_value() ? std::max<pid_t>(*pid, 0) : 0;
}

int ExclusiveLock::TryForWriting() { return Set(F_OFD_SETLK, kOwner, F_WRLCK); }

int ExclusiveLock::TryForReading() {
  met_ = false;
  int error = Set(F_OFD_SETLK, kCandidate, F_RDLCK);
  if (error != 0) return error;
  met_ = FindOther(F_OFD_GETLK, kCandidate, &error).has_value();
  if (error == 0) {
    const bool owned =
        met_ || FindOther(F_OFD_GETLK, kOwner, &error).has_value();
    if (owned) error = EAGAIN;
  }
  // Fails if a writer has locked the owner's byte meanwhile.
  if (error == 0) error = Set(F_OFD_SETLK, kOwner, F_RDLCK);
  Set(F_OFD_SETLK, kCandidate, F_UNLCK);
  return error;
}

absl::StatusOr<bool> ExclusiveLock::Try() {
  int error = 0;
  if (read_only_) {
    for (int i = 0; i < kMeetings; ++i) {
      error = TryForReading();
      if (!met_) break;
      PauseALittle();
    }
  } else {
    error = TryForWriting();
  }
  if (IsHeld(error)) return false;
  if (error != 0) return ErrnoStatus(error, "it can't be locked");
  LockAsHolder();
  return true;
}

void ExclusiveLock::LockAsHolder() {
  // A file system may release the byte of the process that had the export
  // before only after that has ended (FUSE does), and the owner's earlier.
  for (int i = 0; i < kHolderAttempts; ++i) {
    const int error = Set(F_SETLK, Holder(), read_only_ ? F_RDLCK : F_WRLCK);
    if (!IsHeld(error)) return;
    PauseALittle();
  }
}

absl::Status ExclusiveLock::AskHolder() {
  if (holder_.valid()) {
    if (!HasEnded(holder_.get())) return absl::OkStatus();
    ForgetHolder();
  }
  int error = 0;
  const Bytes byte = Holder();
  const std::optional<pid_t> pid = FindOther(F_GETLK, byte, &error);
  if (pid.has_value() ? *pid <= 0
                      : FindOther(F_GETLK, kHolders, &error).has_value()) {
    if (has_asked_ || ++looks_out_of_reach_ < kLooksOutOfReach) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        "the process that uses it is out of reach, in another PID namespace "
        "or on another machine");
  }
  if (!pid.has_value()) return absl::OkStatus();
  UniqueFd holder(PidfdOpen(*pid));
  if (!holder.valid()) {
    // The process has just ended.
    if (errno == ESRCH) return absl::OkStatus();
    return ErrnoStatus(errno, "the process that uses it can't be asked to end",
                       absl::StatusCode::kFailedPrecondition);
  }
  // The same process id as before: the pidfd is the holder's.
  if (FindOther(F_GETLK, byte, &error) != pid) return absl::OkStatus();
  if (PidfdSendSignal(holder.get(), kTakeoverSignal) != 0) {
    if (errno == ESRCH) return absl::OkStatus();
    return ErrnoStatus(errno,
                       absl::StrCat("process ", *pid,
                                    ", which uses it, can't be asked to end"),
                       errno == EPERM ? absl::StatusCode::kPermissionDenied
                                      : absl::StatusCode::kFailedPrecondition);
  }
  holder_ = std::move(holder);
  has_asked_ = true;
  return absl::OkStatus();
}

}  // namespace nbdinetd
