// So many messages in so long, and a count of the others.
//
// Messages that a peer can cause at will must not fill the log: in each
// interval the first few are let through, and when it is over, one tells how
// many there have been besides. Threads: one.
#ifndef NBDINETD_BASE_RATE_LIMIT_H_
#define NBDINETD_BASE_RATE_LIMIT_H_

#include <cstdint>

#include "absl/time/time.h"

namespace nbdinetd {

class RateLimit {
 public:
  // `burst` messages in `interval`, which starts with the first of them.
  RateLimit(int burst, absl::Duration interval)
      : burst_(burst), interval_(interval) {}

  // Whether a message may be written at `now`; else it has been counted. The
  // count of the interval before has to be taken first (see due()).
  bool Admit(absl::Time now) {
    if (now >= end_) {
      end_ = now + interval_;
      admitted_ = 0;
    }
    if (admitted_ < burst_) {
      ++admitted_;
      return true;
    }
    ++suppressed_;
    return false;
  }

  // When TakeSuppressed() is to be told; InfiniteFuture() while there is
  // nothing to tell.
  absl::Time due() const {
    return suppressed_ == 0 ? absl::InfiniteFuture() : end_;
  }

  // How many were counted, which starts anew.
  uint64_t TakeSuppressed() {
    const uint64_t suppressed = suppressed_;
    suppressed_ = 0;
    return suppressed;
  }

 private:
  const int burst_;
  const absl::Duration interval_;
  absl::Time end_ = absl::InfinitePast();
  int admitted_ = 0;
  uint64_t suppressed_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_RATE_LIMIT_H_
