#include "base/json.h"

#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace nbdinetd {

std::string JsonString(absl::string_view text) {
  const bool is_utf8 = IsValidUtf8(text);
  std::string json = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&json, "\\u%04x", byte);
    } else if (byte >= 0x80 && !is_utf8) {
      json += "\\ufffd";
    } else {
      json += c;
    }
  }
  return json + "\"";
}

}  // namespace nbdinetd
