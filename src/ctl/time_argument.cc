#include "ctl/time_argument.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/civil_time.h"
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

// Takes the English name of a day of the week, long or short, in any case, from
// the start of `*text`, with the blanks behind it.
std::optional<absl::Weekday> TakeWeekday(absl::string_view* text) {
  struct Day {
    absl::string_view name;
    absl::Weekday day;
  };
  static constexpr Day kDays[] = {
      {"monday", absl::Weekday::monday},
      {"tuesday", absl::Weekday::tuesday},
      {"wednesday", absl::Weekday::wednesday},
      {"thursday", absl::Weekday::thursday},
      {"friday", absl::Weekday::friday},
      {"saturday", absl::Weekday::saturday},
      {"sunday", absl::Weekday::sunday},
  };
  constexpr size_t kShort = 3;
  const absl::string_view word = text->substr(0, text->find(' '));
  for (const auto& [name, day] : kDays) {
    if (!absl::EqualsIgnoreCase(word, name) &&
        !absl::EqualsIgnoreCase(word, name.substr(0, kShort))) {
      continue;
    }
    *text = absl::StripLeadingAsciiWhitespace(text->substr(word.size()));
    return day;
  }
  return std::nullopt;
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
  const std::optional<absl::Weekday> weekday = TakeWeekday(&text);
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
    if (!absl::ParseTime(form, full, zone, &time, nullptr)) continue;
    if (weekday.has_value() &&
        absl::GetWeekday(absl::ToCivilDay(time, zone)) != *weekday) {
      return std::nullopt;
    }
    return time;
  }
  return std::nullopt;
}

}  // namespace nbdinetd::ctl
