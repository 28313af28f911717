#include "stream/psk_file.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nbdinetd {
namespace {

bool IsHex(absl::string_view text) {
  if (text.empty() || text.size() % 2 != 0) return false;
  for (const char c : text) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

absl::Status LineError(size_t line, absl::string_view reason) {
  return absl::FailedPreconditionError(
      absl::StrCat("line ", line, ": ", reason));
}

// Adds the pair of one line to `keys`.
absl::Status AddLine(absl::string_view line, size_t number, PskMap* keys) {
  // A name may hold colons, a key can't.
  const size_t colon = line.rfind(':');
  if (colon == absl::string_view::npos) {
    return LineError(number, "there is no colon between identity and key");
  }
  std::string identity(line.substr(0, colon));
  if (absl::StartsWith(identity, "#")) {
    if (!IsHex(absl::string_view(identity).substr(1))) {
      return LineError(number, "an identity after # must be hexadecimal");
    }
    identity = absl::HexStringToBytes(absl::string_view(identity).substr(1));
  }
  if (identity.empty() || identity.size() > kMaxPskIdentityBytes ||
      identity.find('\0') != std::string::npos) {
    return LineError(number, absl::StrCat("an identity has from 1 to ",
                                          kMaxPskIdentityBytes,
                                          " bytes, none of them NUL"));
  }
  const absl::string_view hex = line.substr(colon + 1);
  if (!IsHex(hex) || hex.size() > 2 * kMaxPskBytes) {
    return LineError(number, absl::StrCat("a key is hexadecimal, from 1 to ",
                                          kMaxPskBytes, " bytes"));
  }
  if (!keys->emplace(std::move(identity), absl::HexStringToBytes(hex)).second) {
    return LineError(number, "its identity has a key already");
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
    return absl::FailedPreconditionError("there are no keys in it");
  }
  return keys;
}

}  // namespace nbdinetd
