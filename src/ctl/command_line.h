// The command line of nbdinetctl: verbs and options, one row each.
//
// --help and the completions of shells are made from these rows; tests hold the
// manual to them.
#ifndef NBDINETD_CTL_COMMAND_LINE_H_
#define NBDINETD_CTL_COMMAND_LINE_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/transfer_limits.h"
#include "ctl/table.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

struct CommandLine {
  bool help = false;
  bool version = false;
  Where where;
  Json json = Json::kOff;
  bool legend = true;
  bool pager = true;
  bool full = false;
  bool now = false;                        // enable, disable
  bool http = false;                       // metrics
  std::string peer;                        // history; empty for all
  std::string directory;                   // copies; empty for all
  std::string base;                        // copies merge; empty: the unit's
  bool force = false;                      // copies merge
  std::vector<std::string> asked;          // check: the client of --as
  std::optional<absl::Time> since, until;  // history
  // list: how long rates are measured, 0 for not at all; nullopt: for a table
  // as long as the reports of the connections need, and for JSON not at all.
  std::optional<absl::Duration> interval;
  TransferLimits limits;  // limit
  bool read = false;      // probe
  bool agent = false;     // probe
  bool all = false;       // drain, undrain
  bool runtime = false;   // drain
  bool drain = false;     // disconnect
  // probe, drain: nullopt for the default.
  std::optional<absl::Duration> timeout;
  std::string verb;
  std::vector<std::string> arguments;
};

struct CtlOptionRow {
  char letter = '\0';
  const char* name;
  const char* argument = "";  // as in --help: "", "=HOST" or "[=MODE]"
  // What a shell completes, as in OptionRow (cli/option_table.h).
  const char* completes = "";
  const char* help;
  // The only verbs that take it, separated by blanks; "" for all.
  const char* verbs = "";
  // It may be given again, and then adds to what was given.
  bool repeats = false;
  // InvalidArgument for a wrong argument.
  absl::Status (*set)(absl::string_view argument, CommandLine& line);
};

struct VerbRow {
  const char* name;
  // As in --help, from which completions are made, too: words in capitals are
  // placeholders (completions/forms.h), others stand for themselves.
  const char* arguments;
  size_t fewest, most;  // arguments
  const char* help;
  // Carries it out. Returns the exit status, or an error to print.
  absl::StatusOr<int> (*run)(const CommandLine& line);
};

absl::Span<const CtlOptionRow> OptionRows();
absl::Span<const VerbRow> VerbRows();
// The row of the verb; nullptr if there is none.
const VerbRow* FindVerb(absl::string_view name);

// InvalidArgument for wrong usage.
absl::Status ParseCommandLine(int argc, char** argv, CommandLine* line);

std::string HelpText();

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_COMMAND_LINE_H_
