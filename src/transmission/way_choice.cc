#include "transmission/way_choice.h"

#include <algorithm>

namespace nbdinetd {
namespace {

// The shortest window that is compared. On a shorter one, the other processes
// of the machine have too much influence.
constexpr uint64_t kMinWindowBytes = 3 << 20;

// Credit, in looks: at first, enough for one look, since many connections end
// soon; the most that there can be; and the looks' worth of bytes that earn a
// whole one.
constexpr double kFirstCredit = 1.0 / 32;
constexpr double kMaxCredit = 0.25;
constexpr double kLooksPerCredit = 256;
// A look costs its loss, and this much because copying takes processor time
// even where it isn't slower. It never costs less than kMinCost.
constexpr double kCostOfLooking = 0.125;
constexpr double kMinCost = 1.0 / 32;

// sendfile(2) is left only for a gain of more than this: it takes less
// processor time.
constexpr double kMargin = 0.03;
// The most that one look counts, and the evidence that changes the usual way:
// no single look does.
constexpr double kMaxGain = 0.15;
constexpr double kEnough = 0.15;
// A window that took so many times as long as the other one was disturbed.
constexpr double kMaxRatio = 2;

}  // namespace

WayChoice::WayChoice(uint64_t held_bytes)
    : settle_bytes_(2 * held_bytes),
      window_bytes_(std::max(2 * held_bytes, kMinWindowBytes)),
      credit_(kFirstCredit) {}

void WayChoice::NoteSent(uint64_t bytes, absl::Duration time) {
  const auto looks = static_cast<double>(settle_bytes_ + window_bytes_);
  credit_ =
      std::min(credit_ + static_cast<double>(bytes) / looks / kLooksPerCredit,
               kMaxCredit);
  bytes_ += bytes;
  if (timed()) time_ += time;
  switch (step_) {
    case Step::kRest:
      if (bytes_ >= kWarmUpBytes && credit_ > 0) Begin(Step::kBefore);
      break;
    case Step::kBefore:
      if (bytes_ < window_bytes_) break;
      usual_cost_ = Cost();
      Begin(Step::kToOther);
      break;
    case Step::kToOther:
      if (bytes_ >= settle_bytes_) Begin(Step::kOther);
      break;
    case Step::kOther:
      if (bytes_ < window_bytes_) break;
      other_cost_ = Cost();
      Begin(Step::kBack);
      break;
    case Step::kBack:
      if (bytes_ >= settle_bytes_) Begin(Step::kAfter);
      break;
    case Step::kAfter:
      if (bytes_ >= window_bytes_) Judge();
      break;
  }
}

void WayChoice::Begin(Step step) {
  step_ = step;
  bytes_ = 0;
  time_ = absl::ZeroDuration();
}

double WayChoice::Cost() const {
  // A window takes some time, even if the clock didn't advance.
  return std::max(absl::ToDoubleNanoseconds(time_), 1.0) /
         static_cast<double>(bytes_);
}

void WayChoice::Judge() {
  const double after = Cost();
  const double usual = (usual_cost_ + after) / 2;
  const double ratio =
      std::clamp(other_cost_ / usual, 1 / kMaxRatio, kMaxRatio);
  const double margin = usual_ == Way::kSendFile ? kMargin : 0;
  evidence_ = std::max(
      evidence_ + std::clamp(1 - ratio - margin, -kMaxGain, kMaxGain), 0.0);
  if (evidence_ > kEnough) {
    usual_ = Other(usual_);
    evidence_ = 0;
    Begin(Step::kRest);
    return;
  }
  credit_ -= std::max(ratio - 1 + kCostOfLooking, kMinCost);
  usual_cost_ = after;
  // The next look's first window has just been measured. A gain is looked at
  // again at once.
  Begin(credit_ > 0 || evidence_ > 0 ? Step::kToOther : Step::kRest);
}

}  // namespace nbdinetd
