#include "base/errors.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

// Invisible characters, by their properties in Unicode 16: controls (Cc), which
// a terminal may execute; format characters (Cf), among them those that reverse
// the text after them (Bidi_Control) and the tags; line and paragraph
// separators (Zl, Zp); and characters that a program without support for them
// hides (Default_Ignorable_Code_Point: fillers, variation selectors, and
// reserved code points). With them, a name can look like another name, or like
// the rest of the message. ASCII controls aren't listed, since they are always
// escaped.
struct Range {
  char32_t first, last;
};
constexpr Range kUnseen[] = {
    {0x80, 0x9f},       {0xad, 0xad},       {0x34f, 0x34f},
    {0x600, 0x605},     {0x61c, 0x61c},     {0x6dd, 0x6dd},
    {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},
    {0x115f, 0x1160},   {0x17b4, 0x17b5},   {0x180b, 0x180f},
    {0x200b, 0x200f},   {0x2028, 0x202e},   {0x2060, 0x206f},
    {0x3164, 0x3164},   {0xfe00, 0xfe0f},   {0xfeff, 0xfeff},
    {0xffa0, 0xffa0},   {0xfff0, 0xfffb},   {0x110bd, 0x110bd},
    {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3},
    {0x1d173, 0x1d17a}, {0xe0000, 0xe0fff},
};

bool HasUnseen(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const char32_t character = TakeCharacter(text, &i);
    const auto range = std::upper_bound(
        std::begin(kUnseen), std::end(kUnseen), character,
        [](char32_t c, const Range& r) { return c < r.first; });
    if (range != std::begin(kUnseen) && character <= std::prev(range)->last) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string ErrnoText(int error_number) {
  char buffer[128];
  // The GNU variant, which may return a static string instead of `buffer`.
  return strerror_r(error_number, buffer, sizeof(buffer));
}

absl::Status ErrnoStatus(int error_number, absl::string_view what,
                         absl::StatusCode code) {
  return absl::Status(code, absl::StrCat(what, ": ", ErrnoText(error_number)));
}

std::string Quoted(absl::string_view name) {
  // Utf8SafeCEscape() leaves all bytes from 0x80 unescaped. It is therefore
  // only used for names without invisible characters.
  const bool harmless = IsValidUtf8(name) && !HasUnseen(name);
  return absl::StrCat(
      "\"", harmless ? absl::Utf8SafeCEscape(name) : absl::CEscape(name), "\"");
}

}  // namespace nbdinetd
