#include "stream/stall_watch.h"

#include <algorithm>
#include <limits>

#include "base/limits.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// Grows with the bytes that the peer has taken of a blocked output. It uses the
// number of unread bytes, since a socket becomes writable only after a good
// part of its buffer was read, and doesn't show a slow peer's progress until
// then.
std::optional<uint64_t> TakenWhileBlocked(const Stream& stream) {
  const std::optional<size_t> unread = stream.unread_bytes();
  if (!unread.has_value()) return std::nullopt;
  return std::numeric_limits<uint64_t>::max() - *unread;
}

}  // namespace

StallWatch::Stall::Stall(std::optional<uint64_t> taken)
    : since_(SteadyNow()), looked_(since_), taken_(taken) {}

absl::Time StallWatch::Stall::due(absl::Duration timeout) const {
  return std::min(since_ + timeout, looked_ + timeout / kStallLooks);
}

bool StallWatch::Stall::IsOver(std::optional<uint64_t> taken,
                               absl::Duration timeout) {
  looked_ = SteadyNow();
  if (taken.has_value() && taken_.has_value() && *taken > *taken_) {
    since_ = looked_;
  }
  taken_ = taken;
  return looked_ >= since_ + timeout;
}

void StallWatch::NoteBlocked(const Stream& stream) {
  if (!blocked_.has_value()) RestartBlocked(stream);
}

void StallWatch::RestartBlocked(const Stream& stream) {
  blocked_.emplace(TakenWhileBlocked(stream));
}

void StallWatch::NoteSent(const Stream& stream, absl::Time now) {
  if (timeout_ == absl::InfiniteDuration() ||
      look_at_way_ != absl::InfiniteFuture()) {
    return;
  }
  if (!tells_acknowledged_.has_value()) {
    tells_acknowledged_ = stream.acknowledged_bytes().has_value();
  }
  if (*tells_acknowledged_) look_at_way_ = now + timeout_ / kStallLooks;
}

absl::Time StallWatch::due() const {
  return blocked_.has_value() ? blocked_->due(timeout_) : look_at_way_;
}

bool StallWatch::Look(const Stream& stream) {
  if (SteadyNow() < due()) return false;
  return blocked_.has_value()
             ? blocked_->IsOver(TakenWhileBlocked(stream), timeout_)
             : LookAtWay(stream);
}

bool StallWatch::LookAtWay(const Stream& stream) {
  if (stream.unread_bytes().value_or(0) == 0) {
    on_its_way_.reset();
    look_at_way_ = absl::InfiniteFuture();
    return false;
  }
  const std::optional<uint64_t> taken = stream.acknowledged_bytes();
  if (!on_its_way_.has_value()) {
    on_its_way_.emplace(taken);
  } else if (on_its_way_->IsOver(taken, timeout_)) {
    unacknowledged_ = true;
  }
  look_at_way_ = on_its_way_->due(timeout_);
  return unacknowledged_;
}

}  // namespace nbdinetd
