#include "ctl/time_argument.h"

#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/time_span.h"

namespace nbdinetd::ctl {
namespace {

// Midnight, `days` after today's.
absl::Time Midnight(absl::Time now, absl::TimeZone zone, int days) {
  return absl::FromCivil(absl::ToCivilDay(now, zone) + days, zone);
}

std::optional<absl::Time> Shifted(absl::Time now, absl::string_view span,
                                  int direction) {
  const std::optional<absl::Duration> length = ParseTimeSpan(span);
  // ParseTimeSpan() takes 0 and "off" for no limit.
  if (!length.has_value() || *length == absl::InfiniteDuration()) {
    return std::nullopt;
  }
  return now + direction * *length;
}

}  // namespace

std::optional<absl::Time> ParseTimeArgument(absl::string_view text,
                                            absl::Time now,
                                            absl::TimeZone zone) {
  text = absl::StripAsciiWhitespace(text);
  if (text == "now") return now;
  if (text == "today") return Midnight(now, zone, 0);
  if (text == "yesterday") return Midnight(now, zone, -1);
  if (text == "tomorrow") return Midnight(now, zone, 1);
  if (absl::ConsumeSuffix(&text, " ago") || absl::ConsumePrefix(&text, "-")) {
    return Shifted(now, text, -1);
  }
  if (absl::ConsumePrefix(&text, "+")) return Shifted(now, text, 1);
  if (absl::ConsumePrefix(&text, "@")) {
    int64_t seconds = 0;
    if (!absl::SimpleAtoi(text, &seconds)) return std::nullopt;
    return absl::FromUnixSeconds(seconds);
  }
  if (!absl::StrContains(text, '-') && !absl::StrContains(text, ':')) {
    return std::nullopt;
  }
  // A time of day is today's.
  const std::string full =
      absl::StrContains(text, '-')
          ? std::string(text)
          : absl::StrCat(absl::FormatTime("%Y-%m-%d ", now, zone), text);
  for (const char* form :
       {"%Y-%m-%d %H:%M:%E*S", "%Y-%m-%d %H:%M", "%Y-%m-%d"}) {
    absl::Time time;
    if (absl::ParseTime(form, full, zone, &time, nullptr)) return time;
  }
  return std::nullopt;
}

}  // namespace nbdinetd::ctl
