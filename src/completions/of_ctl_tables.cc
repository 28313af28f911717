#include "absl/strings/str_split.h"
#include "completions/of_tables.h"
#include "ctl/command_line.h"

namespace nbdinetd {

absl::StatusOr<CompletedCommand> CtlCommand() {
  CompletedCommand command = {"nbdinetctl", {}, {}, {}};
  for (const ctl::CtlOptionRow& row : ctl::OptionRows()) {
    absl::StatusOr<CompletedOption> option =
        OptionOf({row.letter, row.name, row.argument, row.completes, row.help,
                  row.repeats});
    if (!option.ok()) return option.status();
    option->verbs = absl::StrSplit(row.verbs, ' ', absl::SkipEmpty());
    command.options.push_back(*std::move(option));
  }
  for (const ctl::VerbRow& row : ctl::VerbRows()) {
    command.verbs.push_back({row.name, row.help});
    absl::Status status = AddOperands(row.name, row.arguments, command);
    if (!status.ok()) return status;
  }
  return command;
}

}  // namespace nbdinetd
