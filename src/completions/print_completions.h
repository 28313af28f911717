// The programs of the build that make the files of completions/ from the tables
// of options. Threads: one.
#ifndef NBDINETD_COMPLETIONS_PRINT_COMPLETIONS_H_
#define NBDINETD_COMPLETIONS_PRINT_COMPLETIONS_H_

#include "absl/status/statusor.h"
#include "completions/completed_command.h"

namespace nbdinetd {

// Fills the template on standard input for the shell that the only argument
// names, and prints it. Returns the exit status.
int PrintCompletions(const absl::StatusOr<CompletedCommand>& command, int argc,
                     char** argv);

}  // namespace nbdinetd

#endif  // NBDINETD_COMPLETIONS_PRINT_COMPLETIONS_H_
