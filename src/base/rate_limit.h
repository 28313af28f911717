// Limits the number of messages in an interval, and counts the others.
//
// A peer can cause some messages at will, and they must not fill the log. The
// first messages of each interval are written; at its end, one message reports
// how many were suppressed. Threads: one.
#ifndef NBDINETD_BASE_RATE_LIMIT_H_
#define NBDINETD_BASE_RATE_LIMIT_H_

#include <cstdint>

#include "absl/time/time.h"

namespace nbdinetd {

class RateLimit {
 public:
  // Allows `burst` messages in `interval`, which starts with the first of them.
  RateLimit(int burst, absl::Duration interval)
      : burst_(burst), interval_(interval) {}

  // True if a message may be written at `now`; otherwise it is counted. Call
  // TakeSuppressed() first if due() has passed.
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

  // The time to log TakeSuppressed(); InfiniteFuture() if it would be 0.
  absl::Time due() const {
    return suppressed_ == 0 ? absl::InfiniteFuture() : end_;
  }

  // Returns the number of suppressed messages, and resets it to 0.
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
