#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "completions/template.h"

namespace nbdinetd {
namespace {

// In single quotes, as fish reads them.
std::string Quoted(absl::string_view text) {
  return absl::StrCat(
      "'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

// The end of a complete command: what is offered for the forms. fish itself
// completes files.
std::string Offers(const CompletedCommand& command,
                   const std::vector<Form>& forms) {
  std::vector<std::string> words;
  bool has_files = false;
  for (const Form& form : forms) {
    if (!form.literal.empty()) words.push_back(form.literal);
    if (form.placeholder == "FILE" || form.placeholder == "PATH") {
      has_files = true;
    } else if (IsCompleted(form.placeholder)) {
      words.push_back(absl::StrCat("(__", command.name, "_", form.placeholder,
                                   form.literal.empty() ? "" : " ",
                                   form.literal, ")"));
    }
  }
  return absl::StrCat(
      has_files ? " -F" : " -f",
      words.empty() ? ""
                    : absl::StrCat(" -a ", Quoted(absl::StrJoin(words, " "))));
}

std::string OptionLines(const CompletedCommand& command) {
  using enum CompletedOption::Argument;
  std::string lines;
  for (const CompletedOption& option : command.options) {
    absl::StrAppend(&lines, "complete -c ", command.name);
    if (!option.verbs.empty()) {
      absl::StrAppend(&lines, " -n '__", command.name, "_allows ",
                      absl::StrJoin(option.verbs, " "), "'");
    }
    if (option.letter != '\0') {
      absl::StrAppend(&lines, " -s ", std::string(1, option.letter));
    }
    absl::StrAppend(&lines, " -l ", option.name, " -d ", Quoted(option.help));
    if (option.argument == kRequired) lines += " -r";
    if (option.argument != kNone) lines += Offers(command, option.forms);
    lines += "\n";
  }
  return lines;
}

std::string OperandLines(const CompletedCommand& command) {
  std::string lines;
  for (const CompletedVerb& verb : command.verbs) {
    absl::StrAppend(&lines, "complete -c ", command.name, " -f -n '__",
                    command.name, "_lacks_verb' -a ", verb.name, " -d ",
                    Quoted(verb.help), "\n");
  }
  for (const CompletedOperand& operand : command.operands) {
    absl::StrAppend(&lines, "complete -c ", command.name);
    if (command.verbs.empty()) {
      absl::StrAppend(&lines, " -n __", command.name, "_is_operand");
    } else {
      absl::StrAppend(&lines, " -n '__", command.name, "_at ", operand.place,
                      " ", operand.verb, operand.first.empty() ? "" : " ",
                      operand.first, "'");
    }
    absl::StrAppend(&lines, Offers(command, operand.forms), "\n");
  }
  return lines;
}

}  // namespace

Parts FishParts(const CompletedCommand& command) {
  return {{"options", OptionLines(command)},
          {"operands", OperandLines(command)},
          {"waiting", absl::StrCat("    set -l waiting ",
                                   Quoted(WaitingWords(command)), "\n")}};
}

}  // namespace nbdinetd
