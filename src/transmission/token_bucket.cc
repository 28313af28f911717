#include "transmission/token_bucket.h"

#include <algorithm>

namespace nbdinetd {
namespace {

// The burst of a limit that has none of its own.
constexpr absl::Duration kUsualBurst = absl::Milliseconds(100);
// The shortest burst. The process wakes up a millisecond late, and a bucket
// that is full by then loses tokens.
constexpr absl::Duration kLeastBurst = absl::Milliseconds(2);

// The time that the longest burst takes: absl's times are finite with it.
constexpr absl::Duration kMostBurst = absl::Hours(24 * 365 * 100);

absl::Duration TimeOf(uint64_t tokens, const TransferLimit& limit) {
  return absl::Seconds(static_cast<double>(tokens) /
                       static_cast<double>(limit.per_second));
}

absl::Duration FillTime(const TransferLimit& limit) {
  if (!limit.limits()) return absl::ZeroDuration();
  const absl::Duration burst =
      limit.burst == 0 ? kUsualBurst : TimeOf(limit.burst, limit);
  return std::min(std::max({burst, kLeastBurst, TimeOf(1, limit)}), kMostBurst);
}

}  // namespace

TokenBucket::TokenBucket(const TransferLimit& limit)
    : limit_(limit), fill_time_(FillTime(limit)) {}

void TokenBucket::Change(const TransferLimit& limit, absl::Time now) {
  // Until there is a token, or a full bucket. Negative: tokens are there.
  const absl::Duration owed =
      limit_.limits() ? full_at_ - now - fill_time_ : absl::ZeroDuration();
  const double tokens_owed =
      absl::ToDoubleSeconds(std::max(owed, absl::ZeroDuration())) *
      static_cast<double>(limit_.per_second);
  const double tokens_left =
      limit_.limits() && owed < absl::ZeroDuration()
          ? absl::ToDoubleSeconds(std::min(-owed, fill_time_)) *
                static_cast<double>(limit_.per_second)
          : 0;
  const bool was_full = !limit_.limits() || full_at_ <= now;
  limit_ = limit;
  fill_time_ = FillTime(limit);
  full_at_ = absl::InfinitePast();
  if (!limit.limits() || was_full) return;
  const auto rate = static_cast<double>(limit.per_second);
  full_at_ = now + absl::Seconds(tokens_owed / rate) +
             std::max(fill_time_ - absl::Seconds(tokens_left / rate),
                      absl::ZeroDuration());
}

absl::Time TokenBucket::ReadyAt(absl::Time now) const {
  return limit_.limits()
             ? std::max(now, full_at_ - fill_time_ + TimeOf(1, limit_))
             : now;
}

void TokenBucket::Take(uint64_t tokens, absl::Time at) {
  if (!limit_.limits()) return;
  full_at_ = std::max(full_at_, at) + TimeOf(tokens, limit_);
}

}  // namespace nbdinetd
