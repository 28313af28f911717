// One client at a time on an export: the lock of --exclusive.
//
// Invariant: of all processes that use this, at most one has the lock of a file
// or block device; and as long as a request of that process can change the
// file, it has it.
//
// That is why it is an open-file-description lock, on the description that the
// requests themselves use, and not on one opened for the purpose. The kernel
// gives it up when the description's last user is gone, and a system call that
// is under way is a user. So a process that is killed in the middle of a write
// keeps the lock until that write has ended, and no stale write can follow what
// the next client reads.
//
// Three bytes are locked, or asked for. They lie near the end of what off_t can
// express, far from all data, and from the bytes that others use (QEMU: 100 to
// 203; SQLite: at 1 GiB).
//   owner       Locked by whoever has the lock: for writing, or by a read-only
//               export for reading, since a descriptor can't lock for writing
//               that can't write.
//   holder      A record lock of the old kind (F_SETLK), of the same process.
//               It guards nothing, but unlike the other kind it tells a process
//               id, by which a takeover finds whom to ask.
//   candidate   Read locks exclude no other read lock. So a read-only export
//               first locks this byte for reading, and goes on only while
//               nobody else has it: then it is the only one to look whether
//               the owner's byte is free, and to lock it. Of two who meet here
//               at the same time both step back, and try again a little later.
//
// Rejected: opening a read-only export's file for writing, to lock it (programs
// couldn't be run any more, udev would probe the device each time, and there
// are media that can't be written to); flock(), which udev and mkfs use on
// block devices for purposes of their own; a lock file, which can be left over.
//
// A takeover signals the holder by kTakeoverSignal. Who locks the holder's byte
// may be anybody who can open the file, and may make it point to another
// process; so it is a signal that does nothing to who doesn't expect it. A
// pidfd that is opened between two looks at the byte is the holder's for
// certain, however quickly process ids are used again.
//
// Only processes that use this respect it. Block devices are locked by their
// node in /dev, so that another node of the same device knows nothing of it;
// and a device and its partitions are different exports.
//
// System calls: fcntl (F_OFD_SETLK, F_OFD_GETLK, F_SETLK); read-only,
// clock_nanosleep and getpid; for a takeover fcntl (F_GETLK), pidfd_open,
// pidfd_send_signal, and poll on the pidfd. All of them between a client's
// choice of an export and the start of transmission. Landlock must not scope
// signals. Threads: the main thread.
#ifndef NBDINETD_EXPORT_EXCLUSIVE_H_
#define NBDINETD_EXPORT_EXCLUSIVE_H_

#include <signal.h>
#include <sys/types.h>

#include <optional>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "export/export.h"

namespace nbdinetd {

// --exclusive: what becomes of a client whose export is in use.
enum class Exclusive {
  kOff,       // several may use it at once
  kRefuse,    // it hears that, and may go on haggling
  kWait,      // until it is free, or the handshake's time is over
  kTakeover,  // whoever uses it is asked to leave, and waited for
};

// "Urgent condition on socket": by default a process doesn't notice it. A
// process that holds a lock has to take it as SIGTERM.
inline constexpr int kTakeoverSignal = SIGURG;

class ExclusiveLock {
 public:
  // `target` is borrowed. Its description must be its own (see
  // Export::shares_description()): processes that share one share its locks.
  explicit ExclusiveLock(const Export& target);

  // Takes the lock if nobody has it: true, and it is the export's until that is
  // destroyed, however the process ends. False when somebody else has it. An
  // error says why it can't be locked at all.
  absl::StatusOr<bool> Try();

  // Asks whoever has the lock to leave; a holder that has been asked isn't
  // asked again. FailedPrecondition and PermissionDenied say why it can't be
  // asked. OK also while there is none to be found, as when it has just left:
  // then another Try() is due.
  absl::Status AskHolder();

  // Readable once the process that was asked has ended; -1 when there is none.
  int holder_fd() const { return holder_.get(); }
  // The process has ended; the next AskHolder() looks for another.
  void ForgetHolder() { holder_.Reset(); }

 private:
  enum class Byte { kOwner, kHolder, kCandidate };

  // 0, or the errno of a fcntl() that locks a byte as `type` (F_RDLCK ...).
  int Set(int command, Byte byte, short type);
  // Whose lock, if any, excludes locking `byte` for writing: a process id as
  // F_GETLK tells it.
  std::optional<pid_t> FindOther(int command, Byte byte, int* error);
  // One attempt; EAGAIN when somebody else has the lock.
  int TryForWriting();
  int TryForReading();

  const int fd_;
  const bool read_only_;
  // Two read-only processes have met as candidates.
  bool met_ = false;
  UniqueFd holder_;  // a pidfd
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXCLUSIVE_H_
