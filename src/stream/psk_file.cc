#include "stream/psk_file.h"

#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nbdinetd {
namespace {

// The value of one hexadecimal digit.
unsigned HexDigit(char c) {
  return absl::ascii_isdigit(static_cast<unsigned char>(c))
             ? static_cast<unsigned>(c - '0')
             : static_cast<unsigned>(
                   absl::ascii_tolower(static_cast<unsigned char>(c)) - 'a' +
                   10);
}

// Decodes `hex`; nullopt if it is empty or not hexadecimal.
// (absl::HexStringToBytes() doesn't check its argument in Abseil of 2022, and
// that form is deprecated in Abseil of 2024.)
std::optional<std::string> BytesOfHex(absl::string_view hex) {
  if (hex.empty() || hex.size() % 2 != 0 ||
      !absl::c_all_of(
          hex, [](unsigned char c) { return absl::ascii_isxdigit(c); })) {
    return std::nullopt;
  }
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(HexDigit(hex[i]) << 4 | HexDigit(hex[i + 1]));
  }
  return bytes;
}

absl::Status LineError(size_t line, absl::string_view reason) {
  return absl::FailedPreconditionError(
      absl::StrCat("line ", line, ": ", reason));
}

// Adds the pair of one line to `keys`.
absl::Status AddLine(absl::string_view line, size_t number, PskMap* keys) {
  // An identity may contain colons, a key can't.
  const size_t colon = line.rfind(':');
  if (colon == absl::string_view::npos) {
    return LineError(number, "there is no colon between identity and key");
  }
  std::string identity(line.substr(0, colon));
  if (absl::StartsWith(identity, "#")) {
    std::optional<std::string> bytes =
        BytesOfHex(absl::string_view(identity).substr(1));
    if (!bytes.has_value()) {
      return LineError(number, "an identity after # must be hexadecimal");
    }
    identity = *std::move(bytes);
  }
  if (identity.empty() || identity.size() > kMaxPskIdentityBytes ||
      identity.find('\0') != std::string::npos) {
    return LineError(
        number, absl::StrCat("an identity has from 1 to ", kMaxPskIdentityBytes,
                             " bytes, none of them NUL"));
  }
  std::optional<std::string> key = BytesOfHex(line.substr(colon + 1));
  if (!key.has_value() || key->size() > kMaxPskBytes) {
    return LineError(number, absl::StrCat("a key is hexadecimal, from 1 to ",
                                          kMaxPskBytes, " bytes"));
  }
  if (!keys->emplace(std::move(identity), *std::move(key)).second) {
    return LineError(number, "the identity already has a key");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PskMap> ParsePskFile(absl::string_view text) {
  PskMap keys;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::EndsWith(line, "\r")) line.remove_suffix(1);
    if (line.empty()) continue;
    if (absl::Status status = AddLine(line, number, &keys); !status.ok()) {
      return status;
    }
  }
  if (keys.empty()) {
    return absl::FailedPreconditionError("it contains no keys");
  }
  return keys;
}

}  // namespace nbdinetd
