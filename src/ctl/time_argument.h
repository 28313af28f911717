// The argument of `--since=` and `--until=`.
#ifndef NBDINETD_CTL_TIME_ARGUMENT_H_
#define NBDINETD_CTL_TIME_ARGUMENT_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace nbdinetd::ctl {

// The forms of systemd.time(7), "Parsing Timestamps", that are in use: "now",
// "today", "yesterday", "tomorrow", "2026-11-27", "2026-11-27 09:12[:30]",
// "09:12[:30]" (today), "@SECONDS", "2h ago", "-2h", "+2h". A day of the week
// may precede a date or a time of day ("Fri 2026-11-27 09:12"), and must be
// that day's. Times of day are in `zone`. nullopt for anything else.
std::optional<absl::Time> ParseTimeArgument(absl::string_view text,
                                            absl::Time now,
                                            absl::TimeZone zone);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_TIME_ARGUMENT_H_
