#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "completions/template.h"

namespace nbdinetd {
namespace {

std::string Offers(const CompletedCommand& command,
                   const std::vector<Form>& forms,
                   absl::string_view description) {
  return OfferingCommands(command, forms,
                          absl::StrCat("words ", SingleQuoted(description)));
}

std::string ArgumentCases(const CompletedCommand& command) {
  std::string cases;
  for (const CompletedOption& option : command.options) {
    const std::string offers =
        Offers(command, option.forms, option.argument_name);
    if (offers.empty()) continue;
    absl::StrAppend(&cases, "    (", option.name, ")", offers, ";\n");
  }
  return cases;
}

std::string OperandCases(const CompletedCommand& command) {
  std::string cases;
  for (const CompletedOperand& operand : command.operands) {
    const std::string offers = Offers(command, operand.forms, "argument");
    absl::StrAppend(&cases, "    ('", operand.place, " ", operand.verb, " ",
                    operand.first, operand.first.empty() ? "'*)" : "')",
                    offers.empty() ? " :;" : offers, ";\n");
  }
  return cases;
}

bool Excludes(const CompletedOption& option, const std::string& name) {
  return std::find(option.excludes.begin(), option.excludes.end(), name) !=
         option.excludes.end();
}

// The spellings of the options that can't stand beside this one, and its own
// unless it may be given again.
std::string Excluded(const CompletedCommand& command,
                     const CompletedOption& option) {
  std::vector<std::string> spellings;
  for (const CompletedOption& other : command.options) {
    const bool is_excluded =
        other.name == option.name
            ? !option.repeats
            : Excludes(option, other.name) || Excludes(other, option.name);
    if (!is_excluded) continue;
    for (const std::string& spelling : SpellingsOf(other)) {
      spellings.push_back(spelling);
    }
  }
  if (Excludes(option, "FILE")) spellings.push_back("1");
  return absl::StrJoin(spellings, " ");
}

std::string Escaped(absl::string_view text, absl::string_view characters) {
  std::string escaped;
  for (const char c : text) {
    if (characters.find(c) != absl::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

// One spelling of an option as _arguments wants it:
// (EXCLUDED)--name=[help]:MODE:function. A ! before it hides it.
std::string Specification(const CompletedCommand& command,
                          const CompletedOption& option,
                          const std::string& spelling) {
  using enum CompletedOption::Argument;
  const bool is_letter = spelling.size() == 2;
  const bool is_alias =
      !option.alias.empty() && spelling == absl::StrCat("--", option.alias);
  const std::string excluded = Excluded(command, option);
  std::string text = is_alias ? "!" : "";
  if (!excluded.empty()) absl::StrAppend(&text, "(", excluded, ")");
  absl::StrAppend(&text, option.repeats ? "*" : "", spelling);
  if (option.argument == kRequired) text += is_letter ? "+" : "=";
  if (option.argument == kOptional) text += "=-";
  absl::StrAppend(&text, "[", Escaped(option.help, "[]\\"), "]");
  if (option.argument != kNone) {
    absl::StrAppend(&text, option.argument == kOptional ? "::" : ":",
                    Escaped(option.argument_name, ":\\"), ": _", command.name,
                    "_argument ", option.name);
  }
  return SingleQuoted(text);
}

std::string OptionLines(const CompletedCommand& command) {
  std::string lines;
  for (const CompletedOption& option : command.options) {
    std::vector<std::string> specifications;
    for (const std::string& spelling : SpellingsOf(option)) {
      specifications.push_back(Specification(command, option, spelling));
    }
    const std::string condition =
        option.verbs.empty()
            ? ""
            : absl::StrCat("[[ -z $verb || $verb == (",
                           absl::StrJoin(option.verbs, "|"), ") ]] && ");
    absl::StrAppend(&lines, "  ", condition, "specs+=(",
                    absl::StrJoin(specifications, "\n    "), ")\n");
  }
  return lines;
}

// The first operand is excluded by options that exclude FILE.
std::string OperandLine(const CompletedCommand& command) {
  if (!command.verbs.empty()) {
    return absl::StrCat("  specs+=('1:verb: _", command.name,
                        "_verbs' '*:argument: _", command.name,
                        "_operands')\n");
  }
  std::vector<std::string> excluding;
  for (const CompletedOption& option : command.options) {
    if (!Excludes(option, "FILE")) continue;
    for (const std::string& spelling : SpellingsOf(option)) {
      excluding.push_back(spelling);
    }
  }
  return absl::StrCat("  specs+=('(", absl::StrJoin(excluding, " "),
                      ")1:FILE: _", command.name, "_operands')\n");
}

std::string VerbLines(const CompletedCommand& command) {
  std::string lines;
  for (const CompletedVerb& verb : command.verbs) {
    absl::StrAppend(
        &lines, "    ",
        SingleQuoted(absl::StrCat(verb.name, ":", Escaped(verb.help, "\\"))),
        "\n");
  }
  return lines;
}

// Finds the first word of the line that is a verb's name, and no argument of an
// option.
std::string VerbLine(const CompletedCommand& command) {
  if (command.verbs.empty()) return "";
  std::vector<std::string> names;
  for (const CompletedVerb& verb : command.verbs) names.push_back(verb.name);
  return absl::StrCat("  local waiting='", WaitingWords(command),
                      "' word is_argument=\n"
                      "  for word in $before; do\n"
                      "    if [[ -n $is_argument ]]; then\n"
                      "      is_argument=\n"
                      "    elif [[ $word =~ $waiting ]]; then\n"
                      "      is_argument=yes\n"
                      "    elif [[ $word == (",
                      absl::StrJoin(names, "|"),
                      ") ]]; then\n"
                      "      verb=$word\n"
                      "      break\n"
                      "    fi\n"
                      "  done\n");
}

}  // namespace

Parts ZshParts(const CompletedCommand& command) {
  return {{"arguments", ArgumentCases(command)},
          {"operands", OperandCases(command)},
          {"options", OptionLines(command)},
          {"operand", OperandLine(command)},
          {"verb", VerbLine(command)},
          {"verbs", VerbLines(command)}};
}

}  // namespace nbdinetd
