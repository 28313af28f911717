// Holds the requests of a client that may transfer only so much (--max-rate,
// --max-iops) until their time has come.
//
// A read, and every other request without a payload, is held before it is
// looked at. A write is held when it is done, or has failed: its payload has
// come already, so that what waits is its reply. Flushes are never held, and
// the loop goes on to receive them: up to kMaxHeldRequests, and to
// kMaxHeldBytes of writes, beside those that workers have. Beyond that,
// whatever comes behind waits, too. Nothing sleeps here: next() is one more
// deadline of the loop.
//
// Reads and writes have a queue each, in the order in which they came, also
// where one limit holds for both. Threads: one.
#ifndef NBDINETD_TRANSMISSION_PACER_H_
#define NBDINETD_TRANSMISSION_PACER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/transfer_limits.h"
#include "protocol/nbd.h"
#include "protocol/request.h"
#include "transmission/token_bucket.h"

namespace nbdinetd {

class Pacer {
 public:
  // Why a write has failed.
  struct Failure {
    NbdError error;
    std::string sentence;
    std::optional<uint64_t> offset;  // of the first byte, if it is known
  };
  struct Held {
    Request request;
    std::optional<Failure> failure = std::nullopt;  // only of a write
  };

  explicit Pacer(const TransferLimits& limits);

  // Other limits hold from `now` on, also for what is held.
  void Change(const TransferLimits& limits, absl::Time now);

  // Nothing is ever held without a limit; the caller then needs no clock.
  bool limits() const { return limits_; }

  // Whether a request without a payload counts towards the limits: all but
  // flushes and disconnects, and writes of no bytes.
  static bool Holds(uint16_t type);

  // Takes the request, which goes on when TakeDue() returns it.
  void Hold(Held held);
  // The next request whose time has come. The caller starts it, or for a write
  // sends its reply. Without `can_start`, only writes.
  std::optional<Held> TakeDue(absl::Time now, bool can_start);
  // When TakeDue() has the next one; InfiniteFuture() if none is held that it
  // returns.
  absl::Time next(absl::Time now, bool can_start) const;

  // Returns any held request, at once.
  std::optional<Held> TakeAny();

  bool empty() const { return reads_.empty() && writes_.empty(); }
  // Nothing further should be received before some of them have gone on: there
  // are too many, or too much has been written.
  bool full() const;

 private:
  // Two buckets: for reads, and for writes where these have their own.
  struct Buckets {
    explicit Buckets(const DirectionLimits& limits)
        : together(limits.together),
          buckets{TokenBucket(limits.reads), TokenBucket(limits.writes)} {}
    // When a bucket for both directions is parted, each half owes the whole
    // debt. Of two that become one, that of reads stays.
    void Change(const DirectionLimits& limits, absl::Time now) {
      if (together && !limits.together) buckets[1] = buckets[0];
      together = limits.together;
      buckets[0].Change(limits.reads, now);
      buckets[1].Change(limits.writes, now);
    }
    TokenBucket& Of(bool is_write) { return buckets[is_write && !together]; }
    const TokenBucket& Of(bool is_write) const {
      return buckets[is_write && !together];
    }

    bool together;
    TokenBucket buckets[2];
  };

  // When the first of a queue may go on; InfiniteFuture() if there is none.
  absl::Time ReadyAt(bool is_write, absl::Time now, bool can_start) const;
  const std::deque<Held>& QueueOf(bool is_write) const {
    return is_write ? writes_ : reads_;
  }
  Held Take(bool is_write);

  bool limits_;
  Buckets bytes_;
  Buckets requests_;
  // The direction that was taken last: where one limit holds for both, they
  // take turns.
  bool last_was_write_ = false;
  std::deque<Held> reads_;
  std::deque<Held> writes_;
  uint64_t held_bytes_ = 0;  // of writes
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_PACER_H_
