// Signals as a descriptor for poll(2).
//
// Invariant: the signals are blocked in this thread and in every thread and
// process that it starts. They therefore interrupt no system call, and no
// handler has to change a global.
#ifndef NBDINETD_BASE_SIGNALS_H_
#define NBDINETD_BASE_SIGNALS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class Signals {
 public:
  // Blocks those of `numbers` that aren't ignored. Fails when the process or
  // the system has reached its limit of descriptors.
  static absl::StatusOr<Signals> Create(std::initializer_list<int> numbers);

  // Readable while a signal is pending.
  int fd() const { return fd_.get(); }

  struct Signal {
    int number;
    uint64_t value;  // of sigqueue(3); 0 without one
  };
  // Removes and returns the next pending signal; nullopt when there is none.
  std::optional<Signal> Take();

 private:
  explicit Signals(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_SIGNALS_H_
