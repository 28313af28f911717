#include "cli/options.h"

#include <getopt.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "base/errors.h"
#include "cli/option_table.h"
#include "cli/unknown_option.h"

namespace nbdinetd {
namespace {

// The value that getopt_long() returns for an option: its letter, or a number
// that is no letter.
int ValueOf(const OptionRow& row) {
  constexpr int kFirstWithoutLetter = 256;
  if (row.letter != '\0') return row.letter;
  return kFirstWithoutLetter + static_cast<int>(&row - OptionTable().data());
}

const OptionRow* FindRow(int value) {
  for (const OptionRow& row : OptionTable()) {
    if (ValueOf(row) == value) return &row;
  }
  return nullptr;
}

// The arguments of getopt_long(). With a leading ':', it returns ':' for a
// missing argument and '?' for an unknown option.
struct GetoptArrays {
  std::string letters = ":";
  std::vector<option> names;
};

GetoptArrays MakeGetoptArrays() {
  GetoptArrays arrays;
  for (const OptionRow& row : OptionTable()) {
    const int has_argument = row.argument[0] == '\0'  ? no_argument
                             : row.argument[0] == '[' ? optional_argument
                                                      : required_argument;
    for (const char* name : {row.name, row.alias}) {
      if (name == nullptr) continue;
      arrays.names.push_back({name, has_argument, nullptr, ValueOf(row)});
    }
    if (row.letter == '\0') continue;
    arrays.letters.push_back(row.letter);
    arrays.letters.append(static_cast<size_t>(has_argument), ':');
  }
  arrays.names.push_back({nullptr, 0, nullptr, 0});
  return arrays;
}

absl::Status WrongOption(absl::string_view sentence) {
  return absl::InvalidArgumentError(absl::StrCat(sentence, kSeeHelp));
}

// The error that getopt_long() reports by '?' or ':' and optopt: 0 for an
// unknown long option, the value of a known option with a missing or unwanted
// argument, otherwise the letter. A long option is the argument before optind;
// a letter may be in the middle of a bundle, before optind moves.
absl::Status GetoptError(int code, int argc, char** argv) {
  const absl::string_view argument = argv[optind - 1];
  const bool known = FindRow(optopt) != nullptr;
  const bool is_long =
      optopt == 0 ||
      (known && (code == '?' || absl::StartsWith(argument, "--")));
  if (known) {
    const std::string name =
        is_long ? std::string(argument)
                : absl::StrCat("-", std::string(1, static_cast<char>(optopt)));
    return WrongOption(absl::StrCat(
        "option ", Quoted(name),
        code == ':' ? " needs an argument" : " takes no argument"));
  }
  if (!is_long) return WrongOption(ExplainLetter(static_cast<char>(optopt)));
  const size_t equals = argument.find('=');
  const absl::string_view value = equals != absl::string_view::npos
                                      ? argument.substr(equals + 1)
                                  : optind < argc ? argv[optind]
                                                  : "";
  return WrongOption(ExplainLongOption(
      absl::StripPrefix(argument.substr(0, equals), "--"), value));
}

// Rows in the order in which they were given, without those that have an empty
// argument: if that is no error, it means the same as no option.
using GivenRows = std::vector<const OptionRow*>;

// Applies one option. `argument` is nullptr when there is none.
absl::Status Apply(const OptionRow& row, const char* argument, Options* options,
                   GivenRows* given) {
  const std::string name = absl::StrCat("--", row.name);
  given->erase(std::remove(given->begin(), given->end(), &row), given->end());
  if (argument == nullptr || *argument != '\0') given->push_back(&row);
  std::string& own_socket = options->activation.own_socket;
  if (row.opens_socket && own_socket.empty()) own_socket = name;
  return row.set({name, argument != nullptr ? argument : row.implied_argument},
                 *options);
}

bool Excludes(const OptionRow& row, absl::string_view name) {
  return std::any_of(row.excludes.begin(), row.excludes.end(),
                     [name](const char* excluded) {
                       return excluded != nullptr && excluded == name;
                     });
}

absl::Status Together(absl::string_view a, absl::string_view b) {
  return absl::InvalidArgumentError(absl::StrCat(
      a, " and ", b, " can't be used together: leave out one of them"));
}

// Takes FILE. nbdkit's forms are "file PATH", "file=PATH" and "file file=PATH";
// "file" is its plugin there, and file= a parameter.
absl::Status TakeFile(absl::Span<char* const> words, Options& options) {
  constexpr absl::string_view kPlugin = "file", kParameter = "file=";
  if (words.size() > 1 && words[0] == kPlugin) words.remove_prefix(1);
  if (words.empty()) return absl::OkStatus();
  absl::string_view file = words[0];
  if (absl::ConsumePrefix(&file, kParameter) && file.empty()) {
    return WrongOption("file= is empty");
  }
  options.file = std::string(file);
  for (const absl::string_view word : words) {
    if (const auto sentence = ExplainParameter(word)) {
      return WrongOption(*sentence);
    }
  }
  if (words.size() == 1) return absl::OkStatus();
  if (const auto sentence = ExplainPlugin(words[0])) {
    return WrongOption(*sentence);
  }
  return WrongOption(absl::StrCat("one FILE is served, but ", words.size(),
                                  " were given: ", Quoted(words[0]), ", ",
                                  Quoted(words[1]),
                                  words.size() > 2 ? ", ..." : ""));
}

// Checks for options that exclude each other.
absl::Status CheckTogether(const Options& options,
                           absl::Span<const OptionRow* const> given) {
  for (const OptionRow* row : given) {
    const std::string name = absl::StrCat("--", row->name);
    if (!options.file.empty() && Excludes(*row, "FILE")) {
      return Together("FILE", name);
    }
    for (const OptionRow* other : given) {
      if (Excludes(*row, other->name)) {
        return Together(name, absl::StrCat("--", other->name));
      }
    }
  }
  if (options.activation.single && !options.activation.own_socket.empty()) {
    return Together("--single", options.activation.own_socket);
  }
  const ListenAddress& listen = options.listen;
  if (listen.port > 65535 && !listen.vsock) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--port=", listen.port, ": a port of TCP is a number from 1 to 65535"));
  }
  return absl::OkStatus();
}

// Sets the default of --tls, and checks the options that depend on it.
absl::Status SettleTls(Options& options) {
  TlsSettings& tls = options.tls;
  if (!options.tls_given &&
      (!tls.certificates.empty() || !tls.psk_file.empty() || tls.verify_peer)) {
    tls.mode = TlsMode::kOn;
  }
  if (!tls.allow.empty() && tls.mode != TlsMode::kRequire) {
    return absl::InvalidArgumentError(
        "--tls-allow needs --tls=require: a client that isn't allowed could "
        "otherwise connect without TLS");
  }
  return absl::OkStatus();
}

// Checks the options that only kept copies have.
absl::Status CheckKept(const CopySettings& copies) {
  if (copies.keep) return absl::OkStatus();
  const char* given = copies.key_given     ? "--cow-key"
                      : copies.stale_given ? "--cow-stale"
                                           : nullptr;
  if (given == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(given,
                   " needs --cow=keep: only kept copies have a client "
                   "that comes back"));
}

// Sets what follows from --cow=keep, and checks the options that depend on it.
absl::Status SettleKept(Options& options) {
  const CopySettings& copies = options.copies;
  if (!copies.keep) return CheckKept(copies);
  if (copies.in_memory) {
    return absl::InvalidArgumentError(
        "--cow-dir=memory can't be used with --cow=keep: nothing is kept "
        "there");
  }
  if (copies.key == CopyKey::kTls && options.tls.mode == TlsMode::kOff) {
    return absl::InvalidArgumentError(
        "--cow=keep knows a client by TLS, which needs --tls-psk or "
        "--tls-certificates with --tls-verify-peer; --cow-key=peer-address "
        "knows it by its IP address");
  }
  // Two connections of one client can't have its copy.
  if (options.exclusive == Exclusive::kOff) {
    options.exclusive = Exclusive::kTakeover;
  }
  return absl::OkStatus();
}

// Sets what follows from --cow, and checks the options that depend on it.
absl::Status SettleCopies(Options& options) {
  const CopySettings& copies = options.copies;
  // The rules may give copies.
  if (!copies.enabled && options.rules.empty()) {
    const bool has_size = copies.max_bytes != CopySettings().max_bytes;
    const bool has_place = copies.in_memory || !copies.directory.empty();
    if (!has_place && !has_size) return CheckKept(copies);
    return absl::InvalidArgumentError(
        absl::StrCat(has_size ? "--cow-size" : "--cow-dir",
                     " needs --cow, which makes the copies"));
  }
  if (!copies.enabled) return CheckKept(copies);
  options.export_settings.read_only = true;
  if (absl::Status status = SettleKept(options); !status.ok()) return status;
  if (options.multi_conn != true) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--multi-conn=on can't be used with --cow: each connection has a copy of "
      "its own, and sees nothing of what others write");
}

// Checks the options about partitions.
absl::Status SettlePartitions(const Options& options) {
  if (!options.partitions || !options.directory.empty()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "--partitions needs --directory=DIR; --partition=N serves a partition of "
      "one FILE");
}

// Checks the options that go with --negotiated.
absl::Status CheckNegotiated(const Options& options) {
  if (!options.negotiated.has_value()) return absl::OkStatus();
  if (options.tls.mode != TlsMode::kOff) {
    return absl::InvalidArgumentError(
        "--negotiated can't be used with TLS: a client starts TLS while it "
        "negotiates, and here that is over; leave out the --tls options, or "
        "let nbdinetd negotiate");
  }
  if (!options.directory.empty()) {
    return absl::InvalidArgumentError(
        "--negotiated can't be used with --directory: the name that the client "
        "has chosen isn't known here; give the one FILE");
  }
  if (!options.activation.own_socket.empty() || options.activation.foreground) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--negotiated can't be used with ",
        options.activation.own_socket.empty() ? "--foreground"
                                              : options.activation.own_socket,
        ": clients of a socket that listens have negotiated nothing; hand over "
        "one connection"));
  }
  return absl::OkStatus();
}

// Checks --exclusive-scope.
absl::Status CheckScope(const Options& options) {
  // The rules may take an export for one client.
  if (options.exclusive_scope == ExclusiveScope::kHost ||
      options.exclusive != Exclusive::kOff || !options.rules.empty()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "--exclusive-scope=cluster needs --exclusive, whose lock it is about");
}

// Checks --as.
absl::Status CheckAsked(const Options& options) {
  if (options.asked.empty() || options.check) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--as needs --check: a client that connects says itself who it is");
}

// A section of --help. The help texts begin in column `column`.
struct SectionLayout {
  HelpSection section;
  const char* title;
  size_t column;
};

constexpr SectionLayout kSections[] = {
    {HelpSection::kGeneral, "", 29},
    {HelpSection::kClient, "The client at hand:\n", 29},
    {HelpSection::kListening,
     "Listening (-p, -i, -U, --vsock, -f or --run asks for it):\n", 29},
    {HelpSection::kTls, "TLS:\n", 29},
    {HelpSection::kAccess,
     "Who may connect (an address, a network, uid:USER, gid:GROUP, unit:UNIT, "
     "unix:,\nvsock: or vsock:CID; repeatable; the most specific one that "
     "matches holds):\n",
     29},
    {HelpSection::kLimits, "Limits for the peer (10s, 2min, 0 for none):\n",
     33},
    {HelpSection::kNoEffect, "Taken for nbdkit's command lines, no effect:\n",
     29},
};

constexpr char kHelpBegin[] = R"(Usage: nbdinetd [OPTIONS] FILE
       nbdinetd [OPTIONS] --directory=DIR
       nbdinetd [OPTIONS]          serve the files handed over as descriptors

Serve a regular file or block device to NBD clients, with one process for each
connection. The connection comes from systemd, xinetd, inetd or ssh; or the
listening sockets come from systemd; or nbdinetd listens by itself, when an
option under "Listening" asks for it or standard input is a terminal.
)";

constexpr char kHelpEnd[] = R"(
nbdinetd(8) explains all of it, and names the other manual pages.
)";

// The lines of one option.
std::string HelpOf(const OptionRow& row, size_t column) {
  std::string text =
      row.letter == '\0'
          ? "      "
          : absl::StrCat("  -", std::string(1, row.letter), ", ");
  absl::StrAppend(&text, "--", row.name, row.argument);
  text.resize(std::max(column, text.size() + 1), ' ');
  const std::string new_line = absl::StrCat("\n", std::string(column, ' '));
  absl::StrAppend(&text, absl::StrReplaceAll(row.help, {{"\n", new_line}}),
                  "\n");
  return text;
}

}  // namespace

absl::Status ParseOptions(int argc, char** argv, Options* options) {
  absl::Status first_error;
  GivenRows given;
  const GetoptArrays arrays = MakeGetoptArrays();
  opterr = 0;
  int value;
  while ((value = getopt_long(argc, argv, arrays.letters.c_str(),
                              arrays.names.data(), nullptr)) != -1) {
    const OptionRow* row = FindRow(value);
    first_error.Update(row == nullptr ? GetoptError(value, argc, argv)
                                      : Apply(*row, optarg, options, &given));
  }
  first_error.Update(
      TakeFile(absl::MakeSpan(argv + optind, argv + argc), *options));
  first_error.Update(SettleOptions(given, *options));
  return first_error;
}

absl::Status SettleOptions(absl::Span<const OptionRow* const> given,
                           Options& options) {
  absl::Status first_error = CheckTogether(options, given);
  first_error.Update(SettleTls(options));
  first_error.Update(SettleCopies(options));
  first_error.Update(SettlePartitions(options));
  first_error.Update(CheckScope(options));
  first_error.Update(CheckNegotiated(options));
  first_error.Update(CheckAsked(options));
  return first_error;
}

std::string HelpText() {
  std::string text = kHelpBegin;
  for (const SectionLayout& layout : kSections) {
    absl::StrAppend(&text, "\n", layout.title);
    for (const OptionRow& row : OptionTable()) {
      if (row.section != layout.section) continue;
      absl::StrAppend(&text, HelpOf(row, layout.column));
    }
  }
  absl::StrAppend(&text, kHelpEnd);
  return text;
}

}  // namespace nbdinetd
