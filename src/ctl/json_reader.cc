#include "ctl/json_reader.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace nbdinetd::ctl {
namespace {

// The length of the string at the beginning of `json`; npos without its end.
size_t StringLength(absl::string_view json) {
  for (size_t i = 1; i < json.size(); ++i) {
    if (json[i] == '\\') {
      ++i;
    } else if (json[i] == '"') {
      return i + 1;
    }
  }
  return absl::string_view::npos;
}

// The length of the value at the beginning of `json`: up to a comma or bracket
// that isn't within it. npos if it has no end.
size_t ValueLength(absl::string_view json) {
  size_t depth = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') {
      const size_t length = StringLength(json.substr(i));
      if (length == absl::string_view::npos) return length;
      i += length - 1;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (depth == 0 && (c == ',' || c == '}' || c == ']')) {
      return i;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return depth == 0 ? json.size() : absl::string_view::npos;
}

// Splits what is between two brackets at its commas.
std::optional<std::vector<std::string>> Parts(absl::string_view json, char open,
                                              char close) {
  json = absl::StripAsciiWhitespace(json);
  if (json.size() < 2 || json.front() != open || json.back() != close) {
    return std::nullopt;
  }
  json = absl::StripAsciiWhitespace(json.substr(1, json.size() - 2));
  std::vector<std::string> parts;
  while (!json.empty()) {
    const size_t length = ValueLength(json);
    if (length == absl::string_view::npos) return std::nullopt;
    parts.emplace_back(absl::StripAsciiWhitespace(json.substr(0, length)));
    json.remove_prefix(length);
    if (!json.empty() && !absl::ConsumePrefix(&json, ",")) return std::nullopt;
  }
  return parts;
}

// The character of an escape, "n" or "u000a"; removes it from `text`.
std::string TakeEscape(absl::string_view* text) {
  const char c = text->front();
  text->remove_prefix(1);
  switch (c) {
    case 'n':
      return "\n";
    case 't':
      return "\t";
    case 'r':
      return "\r";
    case 'b':
      return "\b";
    case 'f':
      return "\f";
    case 'u':
      break;
    default:
      return std::string(1, c);
  }
  uint32_t number = 0;
  const bool is_ascii = text->size() >= 4 &&
                        absl::SimpleHexAtoi(text->substr(0, 4), &number) &&
                        number < 0x80;
  text->remove_prefix(text->size() < 4 ? text->size() : 4);
  return is_ascii ? std::string(1, static_cast<char>(number)) : "\xef\xbf\xbd";
}

}  // namespace

std::optional<std::map<std::string, std::string>> JsonMembers(
    absl::string_view json) {
  const auto parts = Parts(json, '{', '}');
  if (!parts.has_value()) return std::nullopt;
  std::map<std::string, std::string> members;
  for (const absl::string_view part : *parts) {
    const size_t length =
        part[0] == '"' ? StringLength(part) : absl::string_view::npos;
    if (length == absl::string_view::npos) return std::nullopt;
    absl::string_view value =
        absl::StripLeadingAsciiWhitespace(part.substr(length));
    const std::optional<std::string> name = JsonText(part.substr(0, length));
    if (!name.has_value() || !absl::ConsumePrefix(&value, ":")) {
      return std::nullopt;
    }
    members[*name] = std::string(absl::StripAsciiWhitespace(value));
  }
  return members;
}

std::optional<std::vector<std::string>> JsonElements(absl::string_view json) {
  return Parts(json, '[', ']');
}

std::optional<std::string> JsonText(absl::string_view json) {
  if (json.size() < 2 || json[0] != '"' || StringLength(json) != json.size()) {
    return std::nullopt;
  }
  json = json.substr(1, json.size() - 2);
  std::string text;
  while (!json.empty()) {
    const char c = json.front();
    json.remove_prefix(1);
    if (c != '\\') {
      text += c;
    } else if (!json.empty()) {
      text += TakeEscape(&json);
    }
  }
  return text;
}

}  // namespace nbdinetd::ctl
