#include "locks.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

namespace nbdfuzz {
namespace {

thread_local Locks* current = nullptr;

constexpr pid_t kHolder = 4242;
// The byte that a merge locks.
constexpr off_t kMerge = INT64_MAX - 0xfe00;

// QEMU's bytes, from 100 to 203, and the one that says that an image is used by
// nbdinetd.
bool IsOfImage(const struct flock& lock) {
  constexpr off_t kOurs = INT64_MAX - 0xff00;
  return lock.l_whence == SEEK_SET &&
         ((lock.l_start >= 100 && lock.l_start + lock.l_len <= 204) ||
          lock.l_start == kOurs);
}

}  // namespace

Locks::Locks(const Input& input, Simulation& simulation)
    : simulation_(simulation),
      stubborn_(input.bit(Input::kCache, 0)),
      leaves_in_ns_(int64_t{1'000'000}
                    << (input.settings[Input::kCache] >> 1 & 15)) {
  current = this;
}

Locks::~Locks() { current = nullptr; }

Locks* Locks::Current() { return current; }

// Of what is locked for real it is only told apart which byte it is by how: the
// owner's and the candidate's by locks of a description, the holder's by one of
// a process.
int Locks::Control(int command, struct flock* lock) {
  if (IsOfImage(*lock)) {
    // No virtual machine uses the image.
    if (command == F_OFD_GETLK) lock->l_type = F_UNLCK;
    return 0;
  }
  if (command == F_OFD_GETLK && lock->l_start == kMerge) {
    lock->l_type = F_UNLCK;
    return 0;
  }
  // Only the holders of all hosts are asked for together.
  Require((lock->l_len == 1 || command == F_GETLK) &&
              lock->l_whence == SEEK_SET &&
              lock->l_start > INT64_MAX - (1 << 17),
          "a lock of data");
  asked_ = true;
  switch (command) {
    case F_OFD_SETLK:
      return lock->l_type == F_UNLCK ? 0 : SetLock(lock);
    case F_SETLK:
      return simulation_.storage_tape().Next() < 0x80 ? 0 : -EAGAIN;
    case F_OFD_GETLK:
    case F_GETLK:
      GetLock(lock);
      if (simulation_.storage_tape().Next() < 0xe0) return 0;
      // A process that can't look can't have it either.
      refused_ = true;
      return -ENOLCK;
    default:
      Require(false, "a kind of fcntl() that is not simulated");
      return -1;
  }
}

int Locks::SetLock(struct flock* lock) {
  if (simulation_.holder_has_ended()) held_ = false;
  const uint8_t decision = simulation_.storage_tape().Next();
  if (decision >= 0xe0) {
    refused_ = true;
    return -ENOLCK;
  }
  held_ = (held_ && stubborn_) || decision != 0;
  if (held_) {
    refused_ = true;
    return decision % 2 == 0 ? -EAGAIN : -EACCES;
  }
  // The candidate's is given up again.
  const bool is_owner = lock->l_start % 4 == (INT64_MAX - 0xffff) % 4;
  owned_ |= is_owner;
  return 0;
}

void Locks::GetLock(struct flock* lock) {
  const uint8_t decision = simulation_.storage_tape().Next();
  const bool others = held_ ? decision < 0xc0 : decision >= 0xc0;
  if (!others) {
    lock->l_type = F_UNLCK;
    return;
  }
  refused_ = true;
  lock->l_type = F_RDLCK;
  // Out of reach, or another one than before.
  lock->l_pid = decision % 16 == 1   ? 0
                : decision % 16 == 2 ? kHolder + 1
                                     : kHolder;
}

int Locks::OpenProcess() {
  switch (simulation_.storage_tape().Next()) {
    case 1:
      return -ESRCH;
    case 2:
      return -EMFILE;
    default:
      return kHolderFd;
  }
}

int Locks::SendSignal(int signal) {
  Require(signal == SIGURG, "somebody is asked by a signal that may kill");
  switch (simulation_.storage_tape().Next()) {
    case 1:
      return -ESRCH;
    case 2:
      return -EPERM;
    case 3:
      return -ENOSYS;
    default:
      simulation_.EndHolderIn(leaves_in_ns_);
      return 0;
  }
}

namespace {

int Result(int value) {
  if (value >= 0) return value;
  errno = -value;
  return -1;
}

}  // namespace
}  // namespace nbdfuzz

extern "C" {

using nbdfuzz::Locks;

int __real_fcntl(int, int, void*);
int __wrap_fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (fd != nbdfuzz::kExportFd || Locks::Current() == nullptr) {
    return __real_fcntl(fd, command, argument);
  }
  return nbdfuzz::Result(
      Locks::Current()->Control(command, static_cast<struct flock*>(argument)));
}

int __real_nanosleep(const timespec*, timespec*);
int __wrap_nanosleep(const timespec* time, timespec* left) {
  if (Locks::Current() == nullptr) return __real_nanosleep(time, left);
  // As long as it is, since it depends on the process's number.
  nbdfuzz::Simulation::Current()->Pass(500'000);
  return 0;
}

long __real_syscall(long number, ...);
// Six arguments, whether or not there are so many.
__attribute__((no_sanitize_address)) long __wrap_syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  Locks* locks = Locks::Current();
  if (locks != nullptr && number == SYS_pidfd_open) {
    return nbdfuzz::Result(locks->OpenProcess());
  }
  if (locks != nullptr && number == SYS_pidfd_send_signal) {
    return nbdfuzz::Result(locks->SendSignal(static_cast<int>(arguments[1])));
  }
  return __real_syscall(number, arguments[0], arguments[1], arguments[2],
                        arguments[3], arguments[4], arguments[5]);
}

}  // extern "C"
