// Globs: patterns for whole names. Threads: any.
//
//   *   any number of bytes, also none
//   ?   one character: a byte, and the bytes that continue it in UTF-8
//   \   before * ? \ or ": that byte itself. Before another one it is a
//       backslash, so that a unit name such as dev-a\x2db.scope stands for
//       itself.
//
// A name is looked at once, from its first byte to its last, whatever the
// pattern is: the work is linear in the length of the name. The positions in
// the pattern that the bytes so far may have led to are a set of bits, which
// each byte moves on together (the "shift-and" automaton).
//
// Rejected: fnmatch(3) and other backtracking, whose time a name may multiply
// for each * of a pattern; brackets, which names rarely need.
#ifndef NBDINETD_ACCESS_GLOB_H_
#define NBDINETD_ACCESS_GLOB_H_

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

class GlobAutomaton;

class Glob {
 public:
  // `pattern` is borrowed. CheckGlob() has accepted it.
  explicit Glob(absl::string_view pattern);

  bool Matches(absl::string_view name) const;
  // Makes Matches() faster, at the cost of some 8 KiB: for one that is asked
  // for many names.
  void Prepare();

  // Without wildcards and backslashes: it matches itself alone.
  bool is_plain() const { return begin_ == pattern_.size(); }
  absl::string_view pattern() const { return pattern_; }

 private:
  absl::string_view pattern_;
  // The part before the first wildcard or backslash.
  size_t begin_;
  // Of the rest, once prepared.
  std::shared_ptr<const GlobAutomaton> automaton_;
};

// InvalidArgument: the pattern has more than kMaxGlobBytes bytes.
absl::Status CheckGlob(absl::string_view pattern);

// How much a pattern says: more is more specific.
struct GlobWeight {
  bool has_wildcards;
  size_t literal_bytes;
};
GlobWeight WeightOf(absl::string_view pattern);

// Whether a backslash before `c` takes the meaning of `c` away.
constexpr bool IsEscapable(char c) {
  return c == '*' || c == '?' || c == '\\' || c == '"';
}

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_GLOB_H_
