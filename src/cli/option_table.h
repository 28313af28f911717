// The options of the command line, one row each.
//
// getopt's arrays, --help, the check of options that exclude each other and the
// test of the manual page are made from these rows, so that a new option is a
// new row, its use, a paragraph of the manual and a test.
#ifndef NBDINETD_CLI_OPTION_TABLE_H_
#define NBDINETD_CLI_OPTION_TABLE_H_

#include <array>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cli/options.h"

namespace nbdinetd {

// The sections of --help, in their order.
enum class HelpSection {
  kGeneral,
  kClient,
  kListening,
  kTls,
  kAccess,
  kLimits
};

// An option as it was given, spelled as in the table.
struct GivenOption {
  absl::string_view name;      // with its dashes: "--port"
  absl::string_view argument;  // empty for an option that takes none
};

struct OptionRow {
  HelpSection section = HelpSection::kGeneral;
  char letter = '\0';  // '\0' for none
  const char* name;    // the long one, without its dashes
  // Another long name, for those who know it from elsewhere; --help doesn't
  // show it. nullptr for none.
  const char* alias = nullptr;
  // As in --help: "" for none, "=NAME" when there has to be one, "[=MODE]" when
  // there may be one.
  const char* argument = "";
  // What an optional argument is when it isn't given.
  const char* implied_argument = "";
  // For --help: lines without the indentation, and without the last newline.
  const char* help;
  // The option asks for a socket of our own: it excludes --single, and is an
  // error under socket activation.
  bool opens_socket = false;
  // Names of options that can't be given together with this one, or "FILE";
  // nullptr behind the last. It is enough that one of two names the other.
  std::array<const char*, 3> excludes = {};
  // Sets in `options` what the option means. InvalidArgument says what is wrong
  // with its argument; `options` may hold it all the same.
  absl::Status (*set)(const GivenOption& given, Options& options);
};

// All rows, in the order of --help.
absl::Span<const OptionRow> OptionTable();

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPTION_TABLE_H_
