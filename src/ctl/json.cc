#include "ctl/json.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace nbdinetd::ctl {
namespace {

// The length of the character that `text` starts with, 1 to 4 bytes; 0 if its
// first byte starts none.
size_t CharacterLength(absl::string_view text) {
  for (size_t length = 1; length <= 4 && length <= text.size(); ++length) {
    if (IsValidUtf8(text.substr(0, length))) return length;
  }
  return 0;
}

std::string Escaped(char c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\t':
      return "\\t";
    default:
      return absl::StrFormat("\\u%04x", static_cast<unsigned char>(c));
  }
}

}  // namespace

std::string JsonString(absl::string_view text) {
  std::string result = "\"";
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    const char c = text[0];
    if (length == 0) {
      result += "\xef\xbf\xbd";
    } else if (length == 1 && (c == '"' || c == '\\' || c == '\x7f' ||
                               static_cast<unsigned char>(c) < 0x20)) {
      result += Escaped(c);
    } else {
      absl::StrAppend(&result, text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result + "\"";
}

}  // namespace nbdinetd::ctl
