// A token bucket that may go into debt: a request starts as soon as there is
// any token, whatever it costs, and the next one waits until the debt is paid.
// A request that is larger than the bucket is therefore served.
//
// The bucket is kept as the time at which it will be full again, so that
// nothing has to be done as time passes. There is no clock here: the caller has
// it. Threads: one.
#ifndef NBDINETD_TRANSMISSION_TOKEN_BUCKET_H_
#define NBDINETD_TRANSMISSION_TOKEN_BUCKET_H_

#include <cstdint>

#include "absl/time/time.h"
#include "base/transfer_limits.h"

namespace nbdinetd {

class TokenBucket {
 public:
  // Full at first. Without a limit, it always has tokens.
  explicit TokenBucket(const TransferLimit& limit);

  // Another limit holds from `now` on. A debt, taken beyond the tokens, stays
  // owed, and tokens that are left stay, up to the new burst. A limit where
  // there was none begins with its burst.
  void Change(const TransferLimit& limit, absl::Time now);

  // The first time, not before `now`, at which there is a token.
  absl::Time ReadyAt(absl::Time now) const;
  // Takes tokens at a time that is no earlier than that of the call before.
  void Take(uint64_t tokens, absl::Time at);

 private:
  TransferLimit limit_;
  absl::Duration fill_time_;  // from empty to full
  absl::Time full_at_ = absl::InfinitePast();
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_TOKEN_BUCKET_H_
