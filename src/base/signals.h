// Signals as a descriptor that can be polled.
//
// Invariant: the signals are blocked in this thread, in every thread that it
// starts and in every process that it forks, so that no system call is ever
// interrupted by them and no handler has to touch a global.
#ifndef NBDINETD_BASE_SIGNALS_H_
#define NBDINETD_BASE_SIGNALS_H_

#include <initializer_list>
#include <optional>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class Signals {
 public:
  // Blocks `numbers`, but for those that are ignored. Fails when the process
  // can have no more descriptors.
  static absl::StatusOr<Signals> Create(std::initializer_list<int> numbers);

  // Readable while a signal is pending.
  int fd() const { return fd_.get(); }

  // The next signal that is pending; it is so no more.
  std::optional<int> Take();

 private:
  explicit Signals(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SIGNALS_H_
