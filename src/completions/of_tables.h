// Commands from the tables of their options and verbs. Threads: any.
#ifndef NBDINETD_COMPLETIONS_OF_TABLES_H_
#define NBDINETD_COMPLETIONS_OF_TABLES_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "completions/completed_command.h"

namespace nbdinetd {

// InvalidArgument: a table has a form that ParseForms() doesn't take.
absl::StatusOr<CompletedCommand> HandlerCommand();  // nbdinetd
absl::StatusOr<CompletedCommand> CtlCommand();      // nbdinetctl

// The parts that the rows of both tables have.
struct CommonRow {
  char letter;
  const char* name;
  const char* argument;   // as in --help
  const char* completes;  // "" if the argument's name says all
  const char* help;
  bool repeats;
};
absl::StatusOr<CompletedOption> OptionOf(const CommonRow& row);

// Adds the operands of a verb, which are spelled as in --help: "",
// "[EXPORT|FILE]", "[list|discard COPY|export COPY FILE]".
absl::Status AddOperands(absl::string_view verb, absl::string_view spelled,
                         CompletedCommand& command);

}  // namespace nbdinetd

#endif  // NBDINETD_COMPLETIONS_OF_TABLES_H_
