#include "base/errors.h"

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

// U+0080 to U+009F, which a terminal may obey as it obeys escape sequences.
bool HasC1Control(absl::string_view text) {
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const auto next = static_cast<unsigned char>(text[i + 1]);
    if (text[i] == '\xc2' && next >= 0x80 && next < 0xa0) return true;
  }
  return false;
}

}  // namespace

std::string ErrnoText(int error_number) {
  char buffer[128];
  // The GNU variant, which returns the text wherever it lies.
  return strerror_r(error_number, buffer, sizeof(buffer));
}

absl::Status ErrnoStatus(int error_number, absl::string_view what,
                         absl::StatusCode code) {
  return absl::Status(code, absl::StrCat(what, ": ", ErrnoText(error_number)));
}

std::string Quoted(absl::string_view name) {
  // Utf8SafeCEscape lets every byte from 0x80 pass, so that it is only for names
  // that are known to be harmless.
  const bool harmless = IsValidUtf8(name) && !HasC1Control(name);
  return absl::StrCat(
      "\"", harmless ? absl::Utf8SafeCEscape(name) : absl::CEscape(name), "\"");
}

}  // namespace nbdinetd
