#include "transmission/progress.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/limits.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// "1.5 GiB", for a person.
std::string Amount(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto amount = static_cast<double>(bytes);
  size_t unit = 0;
  while (amount >= 1024 && unit + 1 < std::size(kUnits)) {
    amount /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f %s", amount, kUnits[unit])
                   : absl::StrFormat("%.1f %s", amount, kUnits[unit]);
}

// All counters only grow: the sum changes when one of them does.
uint64_t Sum(const Statistics& s) {
  return s.requests + s.bytes_read + s.bytes_written + s.errors;
}

}  // namespace

absl::Time Progress::Tell() {
  if (!manager_.present() || (told_ && Sum(statistics_) == told_sum_)) {
    return absl::InfiniteFuture();
  }
  const absl::Time now = SteadyNow();
  if (now < next_) return next_;
  manager_.Status(absl::StrCat(what_, ": ", statistics_.requests, " requests, ",
                               Amount(statistics_.bytes_read), " read, ",
                               Amount(statistics_.bytes_written), " written, ",
                               statistics_.errors, " errors"));
  told_ = true;
  told_sum_ = Sum(statistics_);
  next_ = now + kStatusInterval;
  return absl::InfiniteFuture();
}

}  // namespace nbdinetd
