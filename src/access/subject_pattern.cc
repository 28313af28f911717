#include "access/subject_pattern.h"

#include <bitset>
#include <string>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "access/glob.h"
#include "base/errors.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

using PatternPositions = std::bitset<kMaxPatternAttributes + 1>;

// Takes the part of `*rest` before the first `separator` that no backslash
// precedes, and the separator. False when nothing is left.
bool TakePart(absl::string_view* rest, char separator, bool* more,
              absl::string_view* part) {
  if (!*more) return false;
  size_t i = 0;
  while (i < rest->size() && (*rest)[i] != separator) {
    i += (*rest)[i] == '\\' && i + 1 < rest->size() ? 2 : 1;
  }
  *part = rest->substr(0, i);
  *more = i < rest->size();
  rest->remove_prefix(*more ? i + 1 : i);
  return true;
}

// The parts of a text between separators.
class Parts {
 public:
  Parts(absl::string_view text, char separator)
      : rest_(text), separator_(separator) {}
  bool Next(absl::string_view* part) {
    return TakePart(&rest_, separator_, &more_, part);
  }

 private:
  absl::string_view rest_;
  const char separator_;
  bool more_ = true;
};

struct Attribute {
  absl::string_view type, value;
};

Attribute Split(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos) return {text, {}};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Undoes the escapes of RFC 2253. In a pattern, what is escaped and would be a
// wildcard stays escaped, for the glob.
std::string Unescaped(absl::string_view value, bool is_pattern) {
  std::string text;
  for (size_t i = 0; i < value.size(); ++i) {
    if (value[i] != '\\' || i + 1 == value.size()) {
      text.push_back(value[i]);
      continue;
    }
    const int high = HexValue(value[i + 1]);
    const int low = i + 2 < value.size() ? HexValue(value[i + 2]) : -1;
    char byte = value[i + 1];
    if (high >= 0 && low >= 0) {
      byte = static_cast<char>(high << 4 | low);
      i += 2;
    } else {
      i += 1;
    }
    if (is_pattern && IsEscapable(byte)) text.push_back('\\');
    text.push_back(byte);
  }
  return text;
}

bool AttributeMatches(absl::string_view pattern, absl::string_view text) {
  const Attribute wanted = Split(pattern), given = Split(text);
  if (!absl::EqualsIgnoreCase(wanted.type, given.type) ||
      absl::StartsWith(given.value, "#")) {
    return false;
  }
  // Most values have no escapes, and are compared as they are.
  const bool has_escapes = absl::StrContains(wanted.value, '\\') ||
                           absl::StrContains(given.value, '\\');
  if (!has_escapes) return Glob(wanted.value).Matches(given.value);
  const std::string glob = Unescaped(wanted.value, /*is_pattern=*/true);
  return Glob(glob).Matches(Unescaped(given.value, /*is_pattern=*/false));
}

// Of attributes that a + joins, each in its place.
bool JoinedMatch(absl::string_view pattern, absl::string_view text) {
  Parts wanted(pattern, '+'), given(text, '+');
  absl::string_view one, other;
  for (;;) {
    const bool has_wanted = wanted.Next(&one);
    const bool has_given = given.Next(&other);
    if (has_wanted != has_given) return false;
    if (!has_wanted) return true;
    if (!AttributeMatches(one, other)) return false;
  }
}

absl::Status CheckAttribute(absl::string_view text) {
  const Attribute attribute = Split(text);
  const bool has_type = text.size() > attribute.type.size() &&
                        !attribute.type.empty() &&
                        absl::c_all_of(attribute.type, [](unsigned char c) {
                          return absl::ascii_isalnum(c) || c == '.' || c == '-';
                        });
  if (!has_type) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(text),
        " is no attribute of a distinguished name; use TYPE=VALUE, such as "
        "CN=build-*, or * for any number of attributes"));
  }
  // A copy of the subject as it is in the log has no such value that is meant.
  if (absl::StartsWith(attribute.value, "#")) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(text),
        ": a value in hexadecimal can't be compared; use * for the attribute, "
        "or \\# for the character"));
  }
  return CheckGlob(attribute.value);
}

}  // namespace

absl::Status CheckSubjectPattern(absl::string_view pattern) {
  Parts attributes(pattern, ',');
  absl::string_view joined, attribute;
  size_t count = 0;
  while (attributes.Next(&joined)) {
    if (++count > kMaxPatternAttributes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a pattern has no more than ", kMaxPatternAttributes, " attributes"));
    }
    if (joined == "*") continue;
    Parts each(joined, '+');
    while (each.Next(&attribute)) {
      if (absl::Status status = CheckAttribute(attribute); !status.ok()) {
        return status;
      }
    }
  }
  return absl::OkStatus();
}

GlobWeight WeightOfSubject(absl::string_view pattern) {
  GlobWeight weight{/*has_wildcards=*/false, /*literal_bytes=*/0};
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '*' || pattern[i] == '?') {
      weight.has_wildcards = true;
      continue;
    }
    ++weight.literal_bytes;
    if (pattern[i] != '\\' || i + 1 == pattern.size()) continue;
    const bool is_hex = i + 2 < pattern.size() &&
                        HexValue(pattern[i + 1]) >= 0 &&
                        HexValue(pattern[i + 2]) >= 0;
    i += is_hex ? 2 : 1;
  }
  return weight;
}

bool SubjectMatches(absl::string_view pattern, absl::string_view name) {
  if (name.empty()) return false;
  // The pattern's attributes without the stars, and where stars stand: as the
  // automaton of a glob, with attributes in place of bytes.
  absl::string_view wanted[kMaxPatternAttributes];
  PatternPositions stays, reached;
  size_t end = 0;
  Parts attributes(pattern, ',');
  for (absl::string_view one; attributes.Next(&one);) {
    if (one == "*") {
      stays.set(end);
    } else {
      wanted[end++] = one;
    }
  }
  reached.set(0);
  Parts given(name, ',');
  for (absl::string_view one; given.Next(&one);) {
    PatternPositions next = reached & stays;
    for (size_t i = 0; i < end; ++i) {
      if (reached.test(i) && JoinedMatch(wanted[i], one)) next.set(i + 1);
    }
    if (next.none()) return false;
    reached = next;
  }
  return reached.test(end);
}

}  // namespace nbdinetd
