#include "transmission/progress.h"

#include "absl/strings/str_cat.h"
#include "base/amounts.h"
#include "base/limits.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

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
  manager_.Status(
      absl::StrCat(what_, ": ", Counted(statistics_.requests, "request"), ", ",
                   ExactAmount(statistics_.bytes_read), " read, ",
                   ExactAmount(statistics_.bytes_written), " written, ",
                   Counted(statistics_.errors, "error")));
  told_ = true;
  told_sum_ = Sum(statistics_);
  next_ = now + kStatusInterval;
  return absl::InfiniteFuture();
}

}  // namespace nbdinetd
