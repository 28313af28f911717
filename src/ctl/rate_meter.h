// What a connection transfers in a second, from readings of its status.
//
// A connection reports its counters once a second at most, and only after a
// change. The time between two readings therefore says little; the time between
// two changes that the readings show is that of two reports. Threads: one.
#ifndef NBDINETD_CTL_RATE_METER_H_
#define NBDINETD_CTL_RATE_METER_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "ctl/status_text.h"

namespace nbdinetd::ctl {

class RateMeter {
 public:
  struct Rates {
    uint64_t read = 0, written = 0;  // bytes a second
  };

  // Notes the counters that were read at `now`, a SteadyNow() that isn't
  // earlier than the last. Counters that have fallen are another connection's:
  // the measurement starts anew.
  void Note(const Counters& counters, absl::Time now);

  // Whether further readings aren't needed: two changes were seen, or none in
  // kQuiet.
  bool IsSettled(absl::Time now) const;

  // The rates between the first and the last change; with one change, between
  // the first and the last reading. 0 without a change.
  Rates rates() const;

  // After this time without a report, nothing is transferred.
  static constexpr absl::Duration kQuiet = absl::Milliseconds(2500);

 private:
  struct Reading {
    Counters counters;
    absl::Time time;
  };
  static Rates Between(const Reading& from, const Reading& to);

  std::optional<Reading> first_, last_;
  std::optional<Reading> first_change_, last_change_;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_RATE_METER_H_
