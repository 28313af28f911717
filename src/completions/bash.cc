#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "completions/template.h"

namespace nbdinetd {
namespace {

std::string Offers(const CompletedCommand& command,
                   const std::vector<Form>& forms) {
  return OfferingCommands(command, forms, "add");
}

std::string ArgumentCases(const CompletedCommand& command) {
  std::string cases;
  for (const CompletedOption& option : command.options) {
    const std::string offers = Offers(command, option.forms);
    if (offers.empty()) continue;
    absl::StrAppend(&cases, "        ",
                    absl::StrJoin(SpellingsOf(option), " | "), ")", offers,
                    ";\n");
  }
  return cases;
}

// Cases of PLACE VERB FIRST.
std::string OperandCases(const CompletedCommand& command) {
  std::string cases;
  for (const CompletedOperand& operand : command.operands) {
    const std::string offers = Offers(command, operand.forms);
    absl::StrAppend(&cases, "        '", operand.place, " ", operand.verb, " ",
                    operand.first, operand.first.empty() ? "'*)" : "')",
                    offers.empty() ? " :;" : offers, ";\n");
  }
  return cases;
}

// How an option is offered: with = if nothing else can follow.
std::string Offered(const CompletedOption& option) {
  using enum CompletedOption::Argument;
  const std::string name =
      absl::StrCat("--", option.name, option.argument == kRequired ? "=" : "");
  if (option.letter == '\0') return name;
  return absl::StrCat("-", std::string(1, option.letter), " ", name);
}

// Commands that offer the options, those of single verbs only for these.
std::string OptionOffers(const CompletedCommand& command) {
  std::string all, lines;
  for (const CompletedOption& option : command.options) {
    if (option.verbs.empty()) {
      absl::StrAppend(&all, " ", Offered(option));
    } else {
      absl::StrAppend(&lines, "    [[ $1 == @(|",
                      absl::StrJoin(option.verbs, "|"), ") ]] && _",
                      command.name, "_add ", Offered(option), "\n");
    }
  }
  return absl::StrCat("    _", command.name, "_add", all, "\n", lines);
}

// Commands that offer the operand, or first a verb.
std::string OperandLines(const CompletedCommand& command) {
  const std::string name = absl::StrCat("_", command.name);
  if (command.verbs.empty()) {
    return absl::StrCat("        ", name,
                        "_operand \"${#operands[@]}\" '' ''\n");
  }
  return absl::StrCat("        if ((${#operands[@]} == 0)); then\n            ",
                      name, "_verbs\n        else\n            ", name,
                      "_operand $((${#operands[@]} - 1)) \"${operands[0]}\" "
                      "\"${operands[1]-}\"\n        fi\n");
}

}  // namespace

Parts BashParts(const CompletedCommand& command) {
  std::vector<std::string> verbs;
  for (const CompletedVerb& verb : command.verbs) verbs.push_back(verb.name);
  return {{"arguments", ArgumentCases(command)},
          {"operands", OperandCases(command)},
          {"operand", OperandLines(command)},
          {"options", OptionOffers(command)},
          {"verbs", absl::StrCat("    _", command.name, "_add ",
                                 absl::StrJoin(verbs, " "), "\n")},
          {"waiting",
           absl::StrCat("    local waiting='", WaitingWords(command), "'\n")}};
}

}  // namespace nbdinetd
