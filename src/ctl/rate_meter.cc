#include "ctl/rate_meter.h"

namespace nbdinetd::ctl {
namespace {

bool HasFallen(const Counters& from, const Counters& to) {
  return to.bytes_read < from.bytes_read ||
         to.bytes_written < from.bytes_written || to.requests < from.requests;
}

bool HasChanged(const Counters& from, const Counters& to) {
  return to.bytes_read != from.bytes_read ||
         to.bytes_written != from.bytes_written;
}

}  // namespace

void RateMeter::Note(const Counters& counters, absl::Time now) {
  const Reading reading = {counters, now};
  if (!last_.has_value() || HasFallen(last_->counters, counters)) {
    first_ = reading;
    first_change_ = last_change_ = std::nullopt;
  } else if (HasChanged(last_->counters, counters)) {
    if (!first_change_.has_value()) first_change_ = reading;
    last_change_ = reading;
  }
  last_ = reading;
}

bool RateMeter::IsSettled(absl::Time now) const {
  if (!first_.has_value()) return false;
  if (!first_change_.has_value()) return now - first_->time >= kQuiet;
  return last_change_->time > first_change_->time;
}

RateMeter::Rates RateMeter::rates() const {
  if (!first_change_.has_value()) return {};
  return last_change_->time > first_change_->time
             ? Between(*first_change_, *last_change_)
             : Between(*first_, *last_);
}

RateMeter::Rates RateMeter::Between(const Reading& from, const Reading& to) {
  const double seconds = absl::ToDoubleSeconds(to.time - from.time);
  if (seconds <= 0) return {};
  const auto rate = [seconds](uint64_t before, uint64_t after) {
    return static_cast<uint64_t>(static_cast<double>(after - before) / seconds);
  };
  return {rate(from.counters.bytes_read, to.counters.bytes_read),
          rate(from.counters.bytes_written, to.counters.bytes_written)};
}

}  // namespace nbdinetd::ctl
