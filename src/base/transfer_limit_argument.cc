#include "base/transfer_limit_argument.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"

namespace nbdinetd {
namespace {

// nullopt: the text is no limit.
std::optional<TransferLimit> Parse(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  const std::optional<uint64_t> number = ParseByteSize(parts.first);
  if (!number.has_value()) return std::nullopt;
  if (!absl::StrContains(text, ':')) return TransferLimit{*number};
  const std::optional<uint64_t> burst = ParseByteSize(parts.second);
  if (!burst.has_value() || *burst == 0) return std::nullopt;
  return TransferLimit{*number, *burst};
}

std::string ArgumentOf(const TransferLimit& limit) {
  return limit.burst == 0 ? absl::StrCat(limit.per_second)
                          : absl::StrCat(limit.per_second, ":", limit.burst);
}

}  // namespace

std::string AddTransferLimit(absl::string_view argument,
                             DirectionLimits& limits) {
  const std::optional<TransferLimit> limit = Parse(argument);
  if (!limit.has_value()) {
    return "this is no limit; use a number for each second, or one with K, M, "
           "G or T, and after a colon the burst if it should be another";
  }
  if (limits.given == 2) {
    return "given twice already, for reads and for writes";
  }
  limits.together = limits.given == 0;
  (limits.together ? limits.reads : limits.writes) = *limit;
  ++limits.given;
  return "";
}

std::vector<std::string> TransferLimitArguments(const DirectionLimits& limits) {
  std::vector<std::string> arguments;
  if (limits.given >= 1) arguments.push_back(ArgumentOf(limits.reads));
  if (limits.given >= 2) arguments.push_back(ArgumentOf(limits.writes));
  return arguments;
}

}  // namespace nbdinetd
