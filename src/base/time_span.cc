#include "base/time_span.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {
namespace {

// systemd's lengths: 30.44 and 365.25 days.
constexpr absl::Duration kMonth = absl::Seconds(2629800);
constexpr absl::Duration kYear = absl::Seconds(31557600);

struct Unit {
  absl::string_view name;
  absl::Duration duration;
};

std::optional<absl::Duration> UnitOf(absl::string_view name) {
  const Unit units[] = {
      {"", absl::Seconds(1)},
      {"us", absl::Microseconds(1)},
      {"usec", absl::Microseconds(1)},
      {"ms", absl::Milliseconds(1)},
      {"msec", absl::Milliseconds(1)},
      {"s", absl::Seconds(1)},
      {"sec", absl::Seconds(1)},
      {"second", absl::Seconds(1)},
      {"seconds", absl::Seconds(1)},
      {"m", absl::Minutes(1)},
      {"min", absl::Minutes(1)},
      {"minute", absl::Minutes(1)},
      {"minutes", absl::Minutes(1)},
      {"h", absl::Hours(1)},
      {"hr", absl::Hours(1)},
      {"hour", absl::Hours(1)},
      {"hours", absl::Hours(1)},
      {"d", absl::Hours(24)},
      {"day", absl::Hours(24)},
      {"days", absl::Hours(24)},
      {"w", absl::Hours(24 * 7)},
      {"week", absl::Hours(24 * 7)},
      {"weeks", absl::Hours(24 * 7)},
      {"M", kMonth},
      {"month", kMonth},
      {"months", kMonth},
      {"y", kYear},
      {"year", kYear},
      {"years", kYear},
      {"\xc2\xb5s", absl::Microseconds(1)},
      {"\xce\xbcs", absl::Microseconds(1)},
  };
  for (const Unit& unit : units) {
    if (unit.name == name) return unit.duration;
  }
  return std::nullopt;
}

// Removes the leading characters that satisfy `belongs` from `*text`, and
// returns them.
template <typename Predicate>
absl::string_view Take(absl::string_view* text, Predicate belongs) {
  size_t n = 0;
  while (n < text->size() && belongs((*text)[n])) ++n;
  const absl::string_view taken = text->substr(0, n);
  text->remove_prefix(n);
  return taken;
}

}  // namespace

std::optional<absl::Duration> ParseTimeSpan(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text == "infinity" || text == "off") return absl::InfiniteDuration();
  if (text.empty()) return std::nullopt;
  absl::Duration total;
  while (!text.empty()) {
    const absl::string_view number =
        Take(&text, [](char c) { return absl::ascii_isdigit(c) || c == '.'; });
    text = absl::StripLeadingAsciiWhitespace(text);
    const absl::string_view unit_name = Take(&text, [](char c) {
      return absl::ascii_isalpha(static_cast<unsigned char>(c)) ||
             static_cast<unsigned char>(c) >= 0x80;
    });
    text = absl::StripLeadingAsciiWhitespace(text);
    double value;
    const std::optional<absl::Duration> unit = UnitOf(unit_name);
    if (!absl::SimpleAtod(number, &value) || !unit.has_value()) {
      return std::nullopt;
    }
    total += value * *unit;
  }
  return total == absl::ZeroDuration() ? absl::InfiniteDuration() : total;
}

}  // namespace nbdinetd
