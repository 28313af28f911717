// Explains an option or argument that nbdinetd doesn't have: what it is in
// nbdkit, and what serves instead, or which option has a similar name.
#ifndef NBDINETD_CLI_UNKNOWN_OPTION_H_
#define NBDINETD_CLI_UNKNOWN_OPTION_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// The end of every message about the command line.
inline constexpr char kSeeHelp[] = "; see nbdinetd --help";

// Describes an unknown long option: `name` without dashes, `value` what stands
// behind it, or "". A sentence for people, which begins with the option.
std::string ExplainLongOption(absl::string_view name, absl::string_view value);

// The same for a letter.
std::string ExplainLetter(char letter);

// Describes the words of a nbdkit command line: a plugin other than "file", or
// a parameter such as "cache=none"; nullopt for any other word.
std::optional<std::string> ExplainPlugin(absl::string_view word);
std::optional<std::string> ExplainParameter(absl::string_view word);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_UNKNOWN_OPTION_H_
