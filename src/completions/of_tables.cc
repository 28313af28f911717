#include "completions/of_tables.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/option_table.h"

namespace nbdinetd {
namespace {

// The operand at a place, which is added if it isn't there yet.
CompletedOperand& OperandAt(const CompletedOperand& wanted,
                            std::vector<CompletedOperand>& operands) {
  const auto found = std::find_if(
      operands.begin(), operands.end(), [&](const CompletedOperand& operand) {
        return operand.verb == wanted.verb && operand.place == wanted.place &&
               operand.first == wanted.first;
      });
  return found != operands.end() ? *found : operands.emplace_back(wanted);
}

// "[=MODE]" without what isn't its name.
absl::string_view NameOfArgument(absl::string_view argument) {
  if (absl::ConsumePrefix(&argument, "[=")) argument.remove_suffix(1);
  absl::ConsumePrefix(&argument, "=");
  return argument;
}

}  // namespace

absl::StatusOr<CompletedOption> OptionOf(const CommonRow& row) {
  using enum CompletedOption::Argument;
  CompletedOption option = {
      .letter = row.letter,
      .name = row.name,
      .alias = {},
      .argument = row.argument[0] == '\0'  ? kNone
                  : row.argument[0] == '[' ? kOptional
                                           : kRequired,
      .argument_name = std::string(NameOfArgument(row.argument)),
      .forms = {},
      .help = absl::StrReplaceAll(row.help, {{"\n", " "}}),
      .excludes = {},
      .verbs = {},
      .repeats = row.repeats};
  if (option.argument == kNone) return option;
  absl::StatusOr<std::vector<Form>> forms = ParseForms(
      row.completes[0] != '\0' ? row.completes : option.argument_name);
  if (!forms.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", row.name, ": ", forms.status().message()));
  }
  option.forms = *std::move(forms);
  return option;
}

absl::Status AddOperands(absl::string_view verb, absl::string_view spelled,
                         CompletedCommand& command) {
  if (absl::ConsumePrefix(&spelled, "[")) absl::ConsumeSuffix(&spelled, "]");
  if (spelled.empty()) return absl::OkStatus();
  for (const absl::string_view words : absl::StrSplit(spelled, '|')) {
    std::string first;
    size_t place = 0;
    for (const absl::string_view word : absl::StrSplit(words, ' ')) {
      absl::StatusOr<std::vector<Form>> forms = ParseForms(word);
      if (!forms.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(verb, ": ", forms.status().message()));
      }
      OperandAt({std::string(verb), place, first, {}}, command.operands)
          .forms.push_back(forms->front());
      if (place == 0 && forms->front().placeholder.empty()) {
        first = forms->front().literal;
      }
      ++place;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CompletedCommand> HandlerCommand() {
  CompletedCommand command = {"nbdinetd", {}, {}, {}};
  for (const OptionRow& row : OptionTable()) {
    absl::StatusOr<CompletedOption> option =
        OptionOf({row.letter, row.name, row.argument, row.completes, row.help,
                  row.repeats});
    if (!option.ok()) return option.status();
    if (row.alias != nullptr) option->alias = row.alias;
    for (const char* excluded : row.excludes) {
      if (excluded != nullptr) option->excludes.push_back(excluded);
    }
    if (row.opens_socket) option->excludes.push_back("single");
    command.options.push_back(*std::move(option));
  }
  absl::Status status = AddOperands("", "FILE", command);
  if (!status.ok()) return status;
  return command;
}

}  // namespace nbdinetd
