#include "export/kept_name.h"

#include <limits.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "export/checksum.h"

namespace nbdinetd {
namespace {

// What is kept of a part that is too long, before its checksum.
constexpr size_t kMaxPart = 110;
constexpr size_t kKept = 90;
static_assert(2 * kMaxPart + sizeof("=@psk+.copy") <= NAME_MAX);

std::string Encoded(absl::string_view text) {
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool as_it_is = absl::ascii_isalnum(byte) || c == '-' || c == '_' ||
                          // A hidden file is no copy.
                          (c == '.' && !encoded.empty());
    if (as_it_is) {
      encoded += c;
    } else {
      absl::StrAppend(&encoded, "%", absl::Hex(byte, absl::kZeroPad2));
    }
  }
  if (encoded.size() <= kMaxPart) return encoded;
  return absl::StrCat(encoded.substr(0, kKept), "~",
                      absl::Hex(Checksum(text), absl::kZeroPad16));
}

}  // namespace

absl::string_view WordOf(ClientKind kind) {
  switch (kind) {
    case ClientKind::kNone:
      return "";
    case ClientKind::kPsk:
      return "psk";
    case ClientKind::kCertificate:
      return "cert";
    case ClientKind::kAddress:
      return "addr";
  }
  return "";
}

std::string KeptNameOf(const KeptOwner& owner) {
  return absl::StrCat(owner.by_path ? "=" : "", Encoded(owner.export_name), "@",
                      WordOf(owner.kind), "+", Encoded(owner.identity),
                      kKeptNameEnd);
}

bool IsKeptName(absl::string_view name) {
  return absl::EndsWith(name, kKeptNameEnd) && name[0] != '.' &&
         absl::StrContains(name, '@');
}

}  // namespace nbdinetd
