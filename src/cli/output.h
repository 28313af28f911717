// The output of nbdinetd: standard output, and errors in the log.
#ifndef NBDINETD_CLI_OUTPUT_H_
#define NBDINETD_CLI_OUTPUT_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/log.h"

namespace nbdinetd {

// Writes `text` to standard output, and ignores errors, since there is no place
// left to report them. It doesn't use stdio, which calls ioctl() on a terminal:
// the sandbox of --check forbids that.
void Print(absl::string_view text);

// Logs an error, and returns the exit status for it.
int Fail(const Log& log, const absl::Status& status);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OUTPUT_H_
