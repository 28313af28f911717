// What nbdinetd says to whoever started it.
#ifndef NBDINETD_CLI_OUTPUT_H_
#define NBDINETD_CLI_OUTPUT_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/log.h"

namespace nbdinetd {

// Writes `text` to standard output. An error is ignored: there is nobody left
// to tell. Not by stdio, which asks a terminal for its settings (ioctl), and
// the sandbox of --check forbids that.
void Print(absl::string_view text);

// Logs an error; what the process is to exit with.
int Fail(const Log& log, const absl::Status& status);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OUTPUT_H_
