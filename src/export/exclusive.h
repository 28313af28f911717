// One client at a time on an export: the lock of --exclusive.
//
// Invariant: at most one of the processes that use this lock holds it for a
// file or block device, and a process holds it until the last of its requests
// that may change the file has ended.
//
// The lock is an open file description lock on the description that requests
// use. The kernel releases it with the last reference to that description, and
// a system call in progress is such a reference. A process that is killed in
// the middle of a write therefore keeps the lock until the write has ended, and
// no old write can change what the next client has read.
//
// The lock uses bytes near the largest off_t, far from all data and from
// the bytes that other programs lock (QEMU: 100 to 203; SQLite: at 1 GiB).
//   owner       The holder locks it: for writing, or for reading when its
//               export is read-only, since a write lock needs a descriptor
//               open for writing.
//   holder      The holder also takes a traditional record lock (F_SETLK).
//               It excludes nobody, but F_GETLK reports its process id to
//               a takeover; for open file description locks it reports -1.
//               Each host has another byte, which depends on its name: in a
//               cluster's file system, the kernel reports the id of a process
//               of another host as if that were one of this host.
//   candidate   Read locks don't exclude each other. A read-only process
//               therefore first locks this byte for reading, and continues
//               only if no other process has locked it. It then is the only
//               one that tests and locks the owner's byte. If two processes
//               meet here, both unlock the byte and try again later.
//
// Rejected: opening the file of a read-only export for writing (the file can't
// be executed meanwhile, udev probes the device each time, and some media can't
// be written to); flock(2), which udev and mkfs use on block devices; a lock
// file, which can be left over.
//
// A takeover sends kTakeoverSignal to the holder. Any process that can open the
// file can lock the holder's byte, and so make it name another process; the
// default action of the signal is therefore to do nothing. AskHolder() reads
// the process id before and after pidfd_open(2); if both are equal, the pidfd
// is the holder's, even if process ids are reused.
//
// Other programs ignore this lock. It covers the node of a block device in
// /dev, not other nodes of the same device; a device and its partitions are
// different exports.
//
// System calls: fcntl (F_OFD_SETLK, F_OFD_GETLK, F_SETLK), uname; for a
// read-only export, clock_nanosleep and getpid; for a takeover, fcntl
// (F_GETLK), pidfd_open, pidfd_send_signal, and poll on the pidfd. All of them
// happen between the choice of an export and transmission. Landlock must not
// restrict signals (LANDLOCK_SCOPE_SIGNAL). Threads: the main thread.
#ifndef NBDINETD_EXPORT_EXCLUSIVE_H_
#define NBDINETD_EXPORT_EXCLUSIVE_H_

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "export/export.h"

namespace nbdinetd {

// --exclusive: what happens to a client whose export is in use.
enum class Exclusive {
  kOff,       // clients share the export
  kRefuse,    // gets an error reply, and may continue haggling
  kWait,      // waits, at most until the handshake's time limit
  kTakeover,  // signals the holder to end, and waits for it
};

// What options, rules and --check call them.
inline constexpr std::pair<absl::string_view, Exclusive> kExclusiveWords[] = {
    {"off", Exclusive::kOff},
    {"refuse", Exclusive::kRefuse},
    {"wait", Exclusive::kWait},
    {"takeover", Exclusive::kTakeover}};
constexpr absl::string_view WordOf(Exclusive exclusive) {
  return kExclusiveWords[static_cast<size_t>(exclusive)].first;
}

// --exclusive-scope: whom the lock has to exclude.
enum class ExclusiveScope {
  kHost,     // the processes of this host
  kCluster,  // those of all hosts that could serve the export
};

// The default action of SIGURG is to ignore it (signal(7)). A process that
// holds a lock must handle it like SIGTERM.
inline constexpr int kTakeoverSignal = SIGURG;

class ExclusiveLock {
 public:
  // `target` is borrowed. Its open file description must not be shared
  // (Export::shares_locks()): processes that share it also share its
  // locks.
  explicit ExclusiveLock(const Export& target);
  // Of a file that is open for writing; `fd` is borrowed.
  explicit ExclusiveLock(int fd) : fd_(fd), read_only_(false) {}

  // The process that has the lock of the file at `fd`; 0 if it isn't visible,
  // nullopt without one.
  static std::optional<pid_t> HolderOf(int fd);

  // Takes the lock if it is free. True: the export has the lock until it is
  // destroyed or its process has ended. False: another process has it.
  // Internal: the file can't be locked.
  absl::StatusOr<bool> Try();

  // Sends kTakeoverSignal to the holder, once to each. A holder on another host
  // gets none. FailedPrecondition and
  // PermissionDenied: the holder can't be signaled. OK also when no holder is
  // found, for example because it has just ended; then call Try() again.
  absl::Status AskHolder();

  // A pidfd, readable once the signaled process has ended, borrowed; -1 when
  // there is none.
  int holder_fd() const { return holder_.get(); }
  // Closes holder_fd() after its process has ended; the next AskHolder() looks
  // for another holder.
  void ForgetHolder() { holder_.Reset(); }

 private:
  struct Bytes {
    off_t first;
    off_t count;
  };
  static const Bytes kOwner;
  static const Bytes kCandidate;
  static const Bytes kHolders;  // of all hosts
  // Of this host.
  static Bytes Holder();

  // Calls fcntl() to lock `bytes` as `type` (F_RDLCK, ...). 0 or an errno
  // value.
  int Set(int command, Bytes bytes, short type);
  // The process whose lock excludes a write lock on `bytes`, as F_GETLK reports
  // it. nullopt: none, or an error in `*error`, which is 0 or an errno value.
  std::optional<pid_t> FindOther(int command, Bytes bytes, int* error);
  // One attempt; EAGAIN or EACCES when another process has the lock.
  // Makes this process the one that a takeover signals. It waits for the end of
  // an earlier one for a few hundred milliseconds.
  void LockAsHolder();
  int TryForWriting();
  int TryForReading();

  const int fd_;
  const bool read_only_;
  // Another process had also locked the candidate's byte.
  bool met_ = false;
  bool has_asked_ = false;  // some holder to end
  int looks_out_of_reach_ = 0;
  UniqueFd holder_;  // a pidfd
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXCLUSIVE_H_
