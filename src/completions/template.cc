#include "completions/template.h"

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace nbdinetd {
namespace {

std::set<std::string> NeedsOf(const CompletedCommand& command) {
  std::set<std::string> needs;
  if (!command.verbs.empty()) needs.insert("VERBS");
  for (const CompletedOption& option : command.options) {
    for (const Form& form : option.forms) needs.insert(form.placeholder);
  }
  for (const CompletedOperand& operand : command.operands) {
    for (const Form& form : operand.forms) needs.insert(form.placeholder);
  }
  return needs;
}

// Removes the line "#: NAME..." from a paragraph, and all of it if none of the
// names is needed.
absl::string_view Needed(absl::string_view paragraph,
                         const std::set<std::string>& needs) {
  if (!absl::ConsumePrefix(&paragraph, "#:")) return paragraph;
  const size_t end = paragraph.find('\n');
  const std::vector<std::string> names =
      absl::StrSplit(paragraph.substr(0, end), ' ', absl::SkipEmpty());
  const bool is_needed = std::any_of(
      names.begin(), names.end(),
      [&](const std::string& name) { return needs.count(name) > 0; });
  return is_needed ? paragraph.substr(end + 1) : absl::string_view();
}

}  // namespace

absl::StatusOr<std::string> FillTemplate(absl::string_view text,
                                         const CompletedCommand& command,
                                         const Parts& parts) {
  const std::set<std::string> needs = NeedsOf(command);
  std::vector<std::string> kept;
  for (absl::string_view paragraph :
       absl::StrSplit(absl::StripSuffix(text, "\n"), "\n\n")) {
    paragraph = Needed(paragraph, needs);
    std::string filled;
    for (const absl::string_view line : absl::StrSplit(paragraph, '\n')) {
      absl::string_view name = line;
      if (!absl::ConsumePrefix(&name, "@") ||
          !absl::ConsumeSuffix(&name, "@")) {
        absl::StrAppend(
            &filled, absl::StrReplaceAll(line, {{"@command@", command.name}}),
            "\n");
        continue;
      }
      const auto part = parts.find(std::string(name));
      if (part == parts.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("there is no part ", name));
      }
      filled += part->second;
    }
    if (!paragraph.empty()) kept.push_back(std::move(filled));
  }
  return absl::StrJoin(kept, "\n");
}

std::vector<std::string> SpellingsOf(const CompletedOption& option) {
  std::vector<std::string> spellings;
  if (option.letter != '\0') spellings.push_back({'-', option.letter});
  spellings.push_back(absl::StrCat("--", option.name));
  if (!option.alias.empty()) {
    spellings.push_back(absl::StrCat("--", option.alias));
  }
  return spellings;
}

std::string WaitingWords(const CompletedCommand& command) {
  using enum CompletedOption::Argument;
  std::vector<std::string> names;
  std::string bundled, waiting;
  for (const CompletedOption& option : command.options) {
    if (option.letter != '\0') {
      (option.argument == kRequired ? waiting : bundled) += option.letter;
    }
    if (option.argument != kRequired) continue;
    names.push_back(option.name);
    if (!option.alias.empty()) names.push_back(option.alias);
  }
  std::string letters;
  if (!waiting.empty()) letters = absl::StrCat("[", waiting, "]");
  if (!waiting.empty() && !bundled.empty()) {
    letters = absl::StrCat("[", bundled, "]*", letters);
  }
  return absl::StrCat("^(--(", absl::StrJoin(names, "|"), ")",
                      letters.empty() ? "" : "|-", letters, ")$");
}

std::string OfferingCommands(const CompletedCommand& command,
                             const std::vector<Form>& forms,
                             absl::string_view add) {
  std::string words, functions;
  for (const Form& form : forms) {
    if (!form.literal.empty()) absl::StrAppend(&words, " ", form.literal);
    if (!IsCompleted(form.placeholder)) continue;
    absl::StrAppend(&functions, " _", command.name, "_", form.placeholder,
                    form.literal.empty() ? "" : " ", form.literal, ";");
  }
  return words.empty() ? functions
                       : absl::StrCat(" _", command.name, "_", add, words, ";",
                                      functions);
}

std::string SingleQuoted(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

}  // namespace nbdinetd
