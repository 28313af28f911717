// nbdinetctl: shows and controls the exports of nbdinetd under systemd. main
// parses the command line, and calls the function of the verb.

#include <locale.h>
#include <signal.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "ctl/command_line.h"
#include "ctl/output.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

int ExitStatusFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return kWrongUsage;
    case absl::StatusCode::kNotFound:
      return kNotThere;
    default:
      return kFailed;
  }
}

int Main(int argc, char** argv) {
  // A pager that ends early closes its input.
  signal(SIGPIPE, SIG_IGN);
  // For wcwidth(): tables are UTF-8 in any locale.
  setlocale(LC_CTYPE, "C.UTF-8");
  CommandLine line;
  if (absl::Status usage = ParseCommandLine(argc, argv, &line); !usage.ok()) {
    Warn(usage.message());
    return ExitStatusFor(usage);
  }
  if (line.help || line.version) {
    const absl::Status printed =
        PrintText(line.help ? HelpText() : "nbdinetctl " PACKAGE_VERSION "\n");
    if (printed.ok()) return kSuccess;
    Warn(printed.message());
    return kFailed;
  }
  const absl::StatusOr<int> result = FindVerb(line.verb)->run(line);
  if (result.ok()) return *result;
  Warn(result.status().message());
  return ExitStatusFor(result.status());
}

}  // namespace
}  // namespace nbdinetd::ctl

int main(int argc, char** argv) { return nbdinetd::ctl::Main(argc, argv); }
