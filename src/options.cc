#include "options.h"

#include <getopt.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

// Long options without a letter of their own.
enum LongOnly { kDescription = 256, kLog, kCheck, kHelp };

constexpr char kShortOptions[] = ":re:sfvV";
constexpr option kLongOptions[] = {
    {"readonly", no_argument, nullptr, 'r'},
    {"exportname", required_argument, nullptr, 'e'},
    {"export-name", required_argument, nullptr, 'e'},
    {"description", required_argument, nullptr, kDescription},
    {"single", no_argument, nullptr, 's'},
    {"foreground", no_argument, nullptr, 'f'},
    {"log", required_argument, nullptr, kLog},
    {"verbose", no_argument, nullptr, 'v'},
    {"check", no_argument, nullptr, kCheck},
    {"version", no_argument, nullptr, 'V'},
    {"help", no_argument, nullptr, kHelp},
    {nullptr, 0, nullptr, 0},
};

constexpr size_t kMaxStringBytes = 4096;  // NBD: "Conventions"

absl::Status CheckString(absl::string_view option, absl::string_view text) {
  if (text.size() <= kMaxStringBytes && IsValidUtf8(text)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      option, ": NBD wants valid UTF-8 of no more than ", kMaxStringBytes,
      " bytes"));
}

absl::Status ParseLog(absl::string_view name, Options* options) {
  if (name == "stderr") {
    options->log = LogDestination::kStandardError;
  } else if (name == "syslog") {
    options->log = LogDestination::kSyslog;
  } else if (name == "journal") {
    options->log = LogDestination::kJournal;
  } else if (name == "null") {
    options->log = LogDestination::kNull;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--log=", Quoted(name),
                     ": there is no such destination; use stderr, syslog, "
                     "journal or null"));
  }
  return absl::OkStatus();
}

absl::Status ApplyOption(int letter, const char* argument, Options* options) {
  switch (letter) {
    case 'r':
      options->read_only = true;
      return absl::OkStatus();
    case 'e':
      options->export_name = argument;
      return CheckString("--exportname", argument);
    case kDescription:
      options->description = argument;
      return CheckString("--description", argument);
    case 's':
      options->single = true;
      return absl::OkStatus();
    case 'f':
      // Under a superserver the process stays in the foreground by itself.
      return absl::OkStatus();
    case kLog:
      return ParseLog(argument, options);
    case 'v':
      options->verbose = true;
      return absl::OkStatus();
    case kCheck:
      options->check = true;
      return absl::OkStatus();
    case 'V':
      options->version = true;
      return absl::OkStatus();
    case kHelp:
      options->help = true;
      return absl::OkStatus();
    default:
      return absl::InternalError("an option without a meaning");
  }
}

bool IsOptionValue(int value) {
  for (const option& candidate : kLongOptions) {
    if (candidate.name != nullptr && candidate.val == value) return true;
  }
  return false;
}

// What getopt_long() found wrong, which it tells by '?' or ':' and optopt: 0
// for a long option that it doesn't know, the value of one that has an argument
// too many or too few, or else the letter. A long option is the argument before
// optind; a letter may be in the middle of a bundle that optind hasn't passed.
absl::Status GetoptError(int code, char** argv) {
  const absl::string_view argument = argv[optind - 1];
  const bool known = IsOptionValue(optopt);
  const bool is_long =
      optopt == 0 || (known && (code == '?' || absl::StartsWith(argument, "--")));
  const std::string name =
      is_long ? std::string(argument)
              : absl::StrCat("-", std::string(1, static_cast<char>(optopt)));
  return absl::InvalidArgumentError(
      absl::StrCat("option ", Quoted(name),
                   code == ':' ? " needs an argument"
                   : known     ? " takes no argument"
                               : " is unknown, or stands for several"));
}

}  // namespace

absl::Status ParseOptions(int argc, char** argv, Options* options) {
  absl::Status first_error;
  opterr = 0;
  int letter;
  while ((letter = getopt_long(argc, argv, kShortOptions, kLongOptions,
                               nullptr)) != -1) {
    first_error.Update(letter == '?' || letter == ':'
                           ? GetoptError(letter, argv)
                           : ApplyOption(letter, optarg, options));
  }
  if (optind < argc) options->file = argv[optind];
  if (argc - optind > 1) {
    first_error.Update(absl::InvalidArgumentError(absl::StrCat(
        "one FILE is served, but ", argc - optind, " were given")));
  }
  return first_error;
}

absl::string_view HelpText() {
  return R"(Usage: nbdinetd [OPTIONS] FILE

Serve a regular file or block device to one NBD client: the connection that
systemd (Accept=yes), xinetd, inetd or ssh hands to this process.

  -r, --readonly           export read-only
  -e, --exportname=NAME    the export's name (without it, any name will do)
      --description=TEXT   a description for clients that list exports
  -s, --single             serve standard input and output, then exit
  -f, --foreground         accepted: under a superserver it is always so
      --log=DESTINATION    stderr, syslog, journal or null
  -v, --verbose            debug messages on standard error
      --check              open FILE, say what would be served, and exit
  -V, --version            print the version and exit
      --help               print this help and exit

The manual page nbdinetd(8) explains all of it, with examples.
)";
}

}  // namespace nbdinetd
