#include "access/glob.h"

#include <algorithm>
#include <array>
#include <bitset>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

// A position in a pattern for each of its bytes, and the one behind the last.
constexpr size_t kPositions = kMaxGlobBytes + 1;
using Positions = std::bitset<kPositions>;

bool ContinuesCharacter(unsigned char byte) { return (byte & 0xc0) == 0x80; }

size_t PlainBytes(absl::string_view pattern) {
  return std::min(pattern.find_first_of("*?\\"), pattern.size());
}

}  // namespace

// The automaton of a pattern.
class GlobAutomaton {
 public:
  explicit GlobAutomaton(absl::string_view pattern) {
    for (size_t i = 0; i < pattern.size(); ++i) {
      const char c = pattern[i];
      if (c == '*') {
        stays_.set(end_);
        continue;
      }
      if (c == '?') {
        any_.set(end_++);
        after_any_.set(end_);
        continue;
      }
      if (c == '\\' && i + 1 < pattern.size() && IsEscapable(pattern[i + 1])) {
        ++i;
      }
      by_byte_[static_cast<unsigned char>(pattern[i])].set(end_++);
    }
  }

  bool Matches(absl::string_view name) const {
    Positions reached;
    reached.set(0);
    for (const char c : name) {
      const auto byte = static_cast<unsigned char>(c);
      const bool continues = ContinuesCharacter(byte);
      // ? begins with a byte that continues nothing.
      Positions moves = by_byte_[byte];
      if (!continues) moves |= any_;
      Positions next = (reached & moves) << 1 | (reached & stays_);
      if (continues) next |= reached & after_any_;
      if (next.none()) return false;
      reached = next;
    }
    return reached.test(end_);
  }

 private:
  // Positions that a byte leads to the next one from.
  std::array<Positions, 256> by_byte_;
  Positions any_;        // of ?
  Positions after_any_;  // behind a ?
  Positions stays_;      // where a * stands
  size_t end_ = 0;
};

Glob::Glob(absl::string_view pattern)
    : pattern_(pattern), begin_(PlainBytes(pattern)) {}

bool Glob::Matches(absl::string_view name) const {
  // Most patterns are a name, or the beginning of one.
  if (is_plain()) return name == pattern_;
  if (!absl::StartsWith(name, pattern_.substr(0, begin_))) return false;
  const absl::string_view rest = pattern_.substr(begin_);
  if (rest == "*") return true;
  name.remove_prefix(begin_);
  return automaton_ != nullptr ? automaton_->Matches(name)
                               : GlobAutomaton(rest).Matches(name);
}

void Glob::Prepare() {
  if (is_plain() || automaton_ != nullptr) return;
  automaton_ = std::make_shared<GlobAutomaton>(pattern_.substr(begin_));
}

absl::Status CheckGlob(absl::string_view pattern) {
  if (pattern.size() <= kMaxGlobBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a pattern has no more than ", kMaxGlobBytes, " bytes"));
}

GlobWeight WeightOf(absl::string_view pattern) {
  GlobWeight weight{/*has_wildcards=*/false, /*literal_bytes=*/0};
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '*' || c == '?') {
      weight.has_wildcards = true;
      continue;
    }
    if (c == '\\' && i + 1 < pattern.size() && IsEscapable(pattern[i + 1])) ++i;
    ++weight.literal_bytes;
  }
  return weight;
}

}  // namespace nbdinetd
