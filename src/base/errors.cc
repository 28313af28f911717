#include "base/errors.h"

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

// Characters that do something instead of being seen: a terminal may obey U+0080
// to U+009F as it obeys escape sequences; U+200E, U+200F, U+202A to U+202E and
// U+2066 to U+2069 turn what follows around, so that a name may look like another
// or like the rest of the message; U+2028 and U+2029 end a line.
bool HasHiddenControl(absl::string_view text) {
  const auto in = [](unsigned char c, unsigned first, unsigned last) {
    return c >= first && c <= last;
  };
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const auto next = static_cast<unsigned char>(text[i + 1]);
    if (text[i] == '\xc2' && in(next, 0x80, 0x9f)) return true;
    if (text[i] != '\xe2' || i + 2 >= text.size()) continue;
    const auto last = static_cast<unsigned char>(text[i + 2]);
    if (next == 0x80 && (in(last, 0x8e, 0x8f) || in(last, 0xa8, 0xae))) {
      return true;
    }
    if (next == 0x81 && in(last, 0xa6, 0xa9)) return true;
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
  const bool harmless = IsValidUtf8(name) && !HasHiddenControl(name);
  return absl::StrCat(
      "\"", harmless ? absl::Utf8SafeCEscape(name) : absl::CEscape(name), "\"");
}

}  // namespace nbdinetd
