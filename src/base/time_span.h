// Parses time spans in systemd's syntax (systemd.time(7), "Parsing Time
// Spans").
#ifndef NBDINETD_BASE_TIME_SPAN_H_
#define NBDINETD_BASE_TIME_SPAN_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace nbdinetd {

// "10s", "2min", "1h 30min", "500ms", "1.5s"; a number without a unit is in
// seconds. 0, "infinity" and "off" mean no limit: InfiniteDuration(). nullopt
// for anything else.
std::optional<absl::Duration> ParseTimeSpan(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_TIME_SPAN_H_
