#include "partition/partition_name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
}

// nullopt for a number that no partition has.
std::optional<uint32_t> NumberIn(absl::string_view digits) {
  uint32_t number = 0;
  if (!absl::SimpleAtoi(digits, &number) || number == 0 ||
      number > kMaxPartitions) {
    return std::nullopt;
  }
  return number;
}

}  // namespace

absl::StatusOr<PartitionName> ParsePartitionName(absl::string_view text) {
  if (text.empty()) {
    return absl::InvalidArgumentError(
        "use the number, the label or the UUID of a partition");
  }
  PartitionName name = {std::nullopt, std::string(text)};
  if (!IsNumber(text)) return name;
  name.number = NumberIn(text);
  if (name.number.has_value()) return name;
  return absl::InvalidArgumentError(absl::StrCat(
      "no partition has this number; use one from 1 to ", kMaxPartitions));
}

std::optional<FileAndNumber> SplitPartitionName(absl::string_view name) {
  const size_t colon = name.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return std::nullopt;
  const absl::string_view digits = name.substr(colon + 1);
  if (!IsNumber(digits) || digits[0] == '0') return std::nullopt;
  const std::optional<uint32_t> number = NumberIn(digits);
  if (!number.has_value()) return std::nullopt;
  return FileAndNumber{std::string(name.substr(0, colon)), *number};
}

}  // namespace nbdinetd
