// The options of the command line, one row each.
//
// getopt's arrays, --help, the check of options that exclude each other, the
// keys of .export files, the completions of shells, and the tests of the manual
// pages are made from these rows. A new option therefore needs a row, its use,
// a paragraph of the manual page and one of its key's, and a test.
#ifndef NBDINETD_CLI_OPTION_TABLE_H_
#define NBDINETD_CLI_OPTION_TABLE_H_

#include <array>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cli/options.h"

namespace nbdinetd {

// The sections of --help, in order.
enum class HelpSection {
  kGeneral,
  kClient,
  kListening,
  kTls,
  kAccess,
  kLimits,
  kNoEffect  // taken, since nbdkit has them
};

// An option from the command line, spelled as in the table, or its key.
struct GivenOption {
  absl::string_view name;      // with its dashes: "--port"
  absl::string_view argument;  // empty for an option that takes none
  AccessRules::Names names = AccessRules::Names::kLookUp;
};

// What the key of an option takes in an .export file.
enum class KeyKind {
  kBoolean,  // yes for the option, no for none
  kText,     // the option's argument
  kPath,     // the option's argument, an absolute path
  kWord,     // one of a few words; "no" for none
  kList,     // the option once more for each assignment
};

// What a shell completes as a WHO (access/who.h): of a client's address or
// process, and of its TLS identity, too.
inline constexpr char kWhoForms[] =
    "any|uid:USER|gid:GROUP|unit:UNIT|unix:|vsock:";
inline constexpr char kWhoAndTlsForms[] =
    "uid:USER|gid:GROUP|unit:UNIT|unix:|vsock:|tls:SUBJECT|issuer:ISSUER|"
    "psk:NAME";

struct OptionRow {
  HelpSection section = HelpSection::kGeneral;
  char letter = '\0';  // '\0' for none
  const char* name;    // the long name, without its dashes
  // Another long name, for compatibility, which --help doesn't show; nullptr
  // for none.
  const char* alias = nullptr;
  // As in --help: "" for no argument, "=NAME" for a required one, "[=MODE]" for
  // an optional one.
  const char* argument = "";
  // What a shell completes as its argument (completions/forms.h), where that is
  // more than the argument's name in --help says: "memory|DIR".
  const char* completes = "";
  // The value of an optional argument that isn't given.
  const char* implied_argument = "";
  // The text in --help: lines without indentation, and without the last
  // newline.
  const char* help;
  // It may be given again, and then adds to what was given.
  bool repeats = false;
  // The option opens a socket of our own: it excludes --single, and is an error
  // with socket activation.
  bool opens_socket = false;
  // The names of options that can't be combined with this one, or "FILE";
  // nullptr after the last. It is enough that one of two options names the
  // other.
  std::array<const char*, 3> excludes = {};
  // Its key in the section [Export] of an .export file, or the reason why there
  // is none; the other one is nullptr.
  const char* key = nullptr;
  const char* no_key = nullptr;
  KeyKind key_kind = KeyKind::kText;
  // Stores the meaning of the option in `options`. InvalidArgument for a wrong
  // argument, which may have been stored all the same.
  absl::Status (*set)(const GivenOption& given, Options& options);
};

// All rows, in the order of --help.
absl::Span<const OptionRow> OptionTable();

// The last step of parsing: checks options that exclude each other or need each
// other, and sets defaults that depend on others. `given` are the rows that set
// `options`. InvalidArgument spells options with their dashes.
absl::Status SettleOptions(absl::Span<const OptionRow* const> given,
                           Options& options);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPTION_TABLE_H_
