// The template of a shell's completion, completions/bash.in for example, and
// what is put into it. The code that runs in the shell stands in the template;
// what is put in are a command's words.
//
// A line "@name@" is replaced by the part of that name, and "@command@"
// anywhere by the command's name. A paragraph whose first line is "#: NAME..."
// is left out of a command that has none of these placeholders; VERBS stands
// for a command with verbs. Threads: any.
#ifndef NBDINETD_COMPLETIONS_TEMPLATE_H_
#define NBDINETD_COMPLETIONS_TEMPLATE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "completions/completed_command.h"

namespace nbdinetd {

// Lines by the name of the part, each with its newline.
using Parts = std::map<std::string, std::string>;

// The parts of each shell's template.
Parts BashParts(const CompletedCommand& command);
Parts ZshParts(const CompletedCommand& command);
Parts FishParts(const CompletedCommand& command);

// InvalidArgument: a line asks for a part that there isn't.
absl::StatusOr<std::string> FillTemplate(absl::string_view text,
                                         const CompletedCommand& command,
                                         const Parts& parts);

// Every spelling of an option: "-r", "--readonly", "--read-only".
std::vector<std::string> SpellingsOf(const CompletedOption& option);

// A regular expression of the words that wait for another one, their argument:
// "--port", "-p", "-rp".
std::string WaitingWords(const CompletedCommand& command);

// The commands of bash or zsh that offer the forms; `add` is the function, with
// its first arguments, that offers words. Words come first: in zsh, a literal
// that is found is no longer there to be compared with others (compset -P).
std::string OfferingCommands(const CompletedCommand& command,
                             const std::vector<Form>& forms,
                             absl::string_view add);

// In single quotes, as bash and zsh read them.
std::string SingleQuoted(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_COMPLETIONS_TEMPLATE_H_
