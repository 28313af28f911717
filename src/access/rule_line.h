// A line of a rules file.
//
//   WHO EXPORT... SETTING...      these exports, in this way
//   WHO -                         nothing at all
//   # a comment                   also behind the rest of a line
//
// Blanks separate words. A word in double quotes may have blanks and #, and is
// never a setting; in it \" is a quote. WHO is as in access/who.h, EXPORT a
// glob (access/glob.h) for names of exports. The settings are words of a table
// in rule_line.cc, and the first of them ends the exports. One of ro, rw and
// cow must be there.
//
// max-rate= and max-iops= have the arguments of the options of these names, and
// as with those, one of them may be there twice.
//
// A line is parsed without allocating memory: a file may have very many, of
// which few are about the client at hand. Threads: any.
#ifndef NBDINETD_ACCESS_RULE_LINE_H_
#define NBDINETD_ACCESS_RULE_LINE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "access/grant.h"
#include "access/who.h"
#include "base/transfer_limits.h"

namespace nbdinetd {

struct RuleLine {
  Who who;
  // The exports as they are in the line; empty for none.
  absl::string_view exports = {};
  Grant grant = {};

  // How many patterns that are.
  uint32_t export_count = 0;

  bool gives_nothing() const { return exports.empty(); }
  // Of the lines that match a client, those with the greatest rank hold.
  uint32_t rank() const { return who.Rank(gives_nothing()); }
};

// Parses a line without its newline, to which the result refers; nullopt if it
// has no words. InvalidArgument: a reason without the place.
absl::StatusOr<std::optional<RuleLine>> ParseRuleLine(absl::string_view line,
                                                      WhoNames names,
                                                      KnownIds* ids);

// The limits in `settings` (Grant::limits); a kind that isn't there was not
// given.
TransferLimits TransferLimitsIn(absl::string_view settings);
// The settings of a line that set these limits.
std::string InWords(const TransferLimits& limits);

// The words of a line, or of RuleLine::exports.
class RuleWords {
 public:
  explicit RuleWords(absl::string_view text) : rest_(text) {}

  struct Word {
    absl::string_view text;  // without its quotes
    bool is_quoted;
    const char* begin;  // of the whole word
    const char* end;
  };
  // The next word; nullopt behind the last one. InvalidArgument: a quote that
  // doesn't end, or a character that can't be in a line.
  absl::StatusOr<std::optional<Word>> Next();

 private:
  absl::string_view rest_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_RULE_LINE_H_
