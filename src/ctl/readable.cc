#include "ctl/readable.h"

#include <wchar.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/errors.h"
#include "base/utf8.h"

namespace nbdinetd::ctl {
namespace {

// The character at the start of a text that isn't empty.
struct Character {
  size_t bytes;
  size_t columns;
};

Character FirstOf(absl::string_view text) {
  if (CharacterLength(text) == 0) return {1, 1};
  size_t bytes = 0;
  const int columns =
      wcwidth(static_cast<wchar_t>(TakeCharacter(text, &bytes)));
  return {bytes, columns < 0 ? 1 : static_cast<size_t>(columns)};
}

}  // namespace

std::string ReadableBytes(uint64_t bytes) {
  static constexpr char kUnits[] = "KMGTPE";
  if (bytes < 1024) return absl::StrCat(bytes);
  auto amount = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 1023.95 would be printed as 1024.0.
  while (amount >= 1023.95 && unit + 2 < sizeof(kUnits)) {
    amount /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f%c", amount, kUnits[unit]);
}

std::string ReadableSpan(absl::Duration span) {
  struct Unit {
    const char* name;
    absl::Duration length;
  };
  const Unit units[] = {{"d", absl::Hours(24)},
                        {"h", absl::Hours(1)},
                        {"min", absl::Minutes(1)},
                        {"s", absl::Seconds(1)}};
  if (span < absl::Seconds(1)) {
    return absl::StrCat(absl::ToInt64Milliseconds(span), "ms");
  }
  std::string text;
  int parts = 0;
  for (const Unit& unit : units) {
    const int64_t count = absl::IDivDuration(span, unit.length, &span);
    if (count == 0 && parts == 0) continue;
    if (count > 0) {
      absl::StrAppend(&text, text.empty() ? "" : " ", count, unit.name);
    }
    if (++parts == 2) break;
  }
  return text;
}

std::string ReadableAge(absl::Time then, absl::Time now) {
  if (now - then < absl::Seconds(1)) return "now";
  return absl::StrCat(ReadableSpan(now - then), " ago");
}

std::string ReadableTime(absl::Time time, absl::TimeZone zone) {
  return absl::FormatTime("%a %Y-%m-%d %H:%M", time, zone);
}

std::string Visible(absl::string_view text) {
  const std::string quoted = Quoted(text);
  // A quote or backslash is as visible as a letter.
  std::string harmless = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\' || c == '\'') harmless += '\\';
    harmless += c;
  }
  harmless += '"';
  if (quoted == harmless) return std::string(text);
  return quoted.substr(1, quoted.size() - 2);
}

size_t WidthOf(absl::string_view text) {
  size_t width = 0;
  while (!text.empty()) {
    const Character character = FirstOf(text);
    width += character.columns;
    text.remove_prefix(character.bytes);
  }
  return width;
}

std::string Ellipsized(absl::string_view text, size_t width) {
  if (WidthOf(text) <= width) return std::string(text);
  size_t end = 0;
  for (size_t used = 0; end < text.size();) {
    const Character character = FirstOf(text.substr(end));
    used += character.columns;
    if (used >= width) break;
    end += character.bytes;
  }
  return absl::StrCat(text.substr(0, end), "\u2026");
}

}  // namespace nbdinetd::ctl
