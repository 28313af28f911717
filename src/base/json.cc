#include "base/json.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace nbdinetd {

std::string JsonString(absl::string_view text) {
  std::string json = "\"";
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text[0]);
    const size_t length = CharacterLength(text);
    const absl::string_view character =
        text.substr(0, std::max(length, size_t{1}));
    if (byte == '"' || byte == '\\') {
      absl::StrAppend(&json, "\\", character);
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&json, "\\u%04x", byte);
    } else {
      absl::StrAppend(&json, length == 0 ? "\\ufffd" : character);
    }
    text.remove_prefix(character.size());
  }
  return json + "\"";
}

}  // namespace nbdinetd
