// The other holders of the lock of --exclusive, and their fates: others that
// exist for one input.
//
// While a Locks lives, what src/ asks of kExportFd by fcntl(), of the process
// that holds it by pidfd_open() and pidfd_send_signal(), and its naps, end up
// here (--wrap). Threads: one.

#ifndef NBDINETD_TESTS_FUZZ_LOCKS_H_
#define NBDINETD_TESTS_FUZZ_LOCKS_H_

#include <fcntl.h>

#include "fuzz/input.h"
#include "fuzz/simulation.h"

namespace nbdfuzz {

class Locks {
 public:
  Locks(const Input& input, Simulation& simulation);
  ~Locks();
  Locks(const Locks&) = delete;
  Locks& operator=(const Locks&) = delete;
  static Locks* Current();

  // The export is locked, and nobody else has that lock.
  bool owned() const { return owned_; }
  // At some time it wasn't to be had.
  bool refused() const { return refused_; }
  // Somebody has looked at all.
  bool asked() const { return asked_; }

  // The system calls; errors as negated errno.
  int Control(int command, struct flock* lock);
  int OpenProcess();
  int SendSignal(int signal);

 private:
  int SetLock(struct flock* lock);
  void GetLock(struct flock* lock);

  Simulation& simulation_;
  // Its holder never leaves by himself.
  const bool stubborn_;
  const int64_t leaves_in_ns_;
  bool held_ = false;
  bool owned_ = false;
  bool refused_ = false;
  bool asked_ = false;
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_LOCKS_H_
