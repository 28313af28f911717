#include "base/amounts.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace nbdinetd {
namespace {

// With one digit behind the point, or none if it would be zero. Whole numbers,
// since formatting a floating-point number costs more than the rest of a line.
std::string OneDigit(double number) {
  const auto tenths = static_cast<uint64_t>(number * 10 + 0.5);
  const std::string whole = absl::StrCat(tenths / 10);
  return tenths % 10 == 0 ? whole : absl::StrCat(whole, ".", tenths % 10);
}

}  // namespace

std::string Counted(uint64_t number, absl::string_view noun) {
  return absl::StrCat(number, " ", noun, number == 1 ? "" : "s");
}

std::string Amount(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  // From here on, the text would be "1024".
  constexpr double kNextUnit = 1023.95;
  if (bytes < 1024) return Counted(bytes, "byte");
  auto amount = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (amount >= kNextUnit && unit + 1 < std::size(kUnits)) {
    amount /= 1024;
    ++unit;
  }
  return absl::StrCat(OneDigit(amount), " ", kUnits[unit]);
}

std::string ExactAmount(uint64_t bytes) {
  const std::string exact = Counted(bytes, "byte");
  return bytes < 1024 ? exact : absl::StrCat(exact, " (", Amount(bytes), ")");
}

std::string RoughTime(absl::Duration duration) {
  if (duration < absl::Milliseconds(1)) {
    return absl::StrCat(absl::ToInt64Microseconds(duration), " us");
  }
  if (duration < absl::Seconds(1)) {
    return absl::StrCat(absl::ToInt64Milliseconds(duration), " ms");
  }
  // From here on, one digit would make it "60 s".
  if (duration < absl::Milliseconds(59950)) {
    return absl::StrCat(OneDigit(absl::ToDoubleSeconds(duration)), " s");
  }
  const int64_t seconds =
      absl::ToInt64Seconds(duration + absl::Milliseconds(500));
  const int64_t minutes = seconds / 60, hours = minutes / 60;
  if (hours == 0) return absl::StrCat(minutes, " min ", seconds % 60, " s");
  if (hours < 24) return absl::StrCat(hours, " h ", minutes % 60, " min");
  return absl::StrCat(hours / 24, " d ", hours % 24, " h");
}

}  // namespace nbdinetd
