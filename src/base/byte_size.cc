#include "base/byte_size.h"

#include <cstddef>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace nbdinetd {

std::optional<uint64_t> ParseByteSize(absl::string_view text) {
  constexpr absl::string_view kUnits = "KMGT";
  int shift = 0;
  if (!text.empty()) {
    const size_t unit = kUnits.find(text.back());
    if (unit != absl::string_view::npos) {
      shift = 10 * (static_cast<int>(unit) + 1);
      text.remove_suffix(1);
    }
  }
  uint64_t number = 0;
  // SimpleAtoi() would take spaces and signs.
  if (text.empty() || !absl::ascii_isdigit(text.front()) ||
      !absl::ascii_isdigit(text.back()) || !absl::SimpleAtoi(text, &number) ||
      number > std::numeric_limits<uint64_t>::max() >> shift) {
    return std::nullopt;
  }
  return number << shift;
}

}  // namespace nbdinetd
