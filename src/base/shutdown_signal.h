// SIGTERM and SIGINT as a descriptor that can be polled.
//
// Invariant: while it lives both signals are blocked in this thread and in
// every thread that it starts, so that no system call is ever interrupted by
// them and no handler has to touch a global.
#ifndef NBDINETD_BASE_SHUTDOWN_SIGNAL_H_
#define NBDINETD_BASE_SHUTDOWN_SIGNAL_H_

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class ShutdownSignal {
 public:
  // Blocks the signals. Fails when the process can have no more descriptors.
  static absl::StatusOr<ShutdownSignal> Create();

  // Readable once a signal has come; it stays readable.
  int fd() const { return fd_.get(); }

 private:
  explicit ShutdownSignal(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SHUTDOWN_SIGNAL_H_
