// More than 500 lines, since the tables of options and verbs, which are most of
// it, stand beside what sets and parses them.
#include "ctl/command_line.h"

#include <getopt.h>

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/edit_distance.h"
#include "base/errors.h"
#include "base/time_span.h"
#include "base/transfer_limit_argument.h"
#include "cli/option_table.h"
#include "ctl/time_argument.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

template <auto kField>
absl::Status Set(absl::string_view, CommandLine& line) {
  line.*kField = true;
  return absl::OkStatus();
}

template <auto kField>
absl::Status Clear(absl::string_view, CommandLine& line) {
  line.*kField = false;
  return absl::OkStatus();
}

absl::Status SetUser(absl::string_view, CommandLine& line) {
  line.where.user = true;
  return absl::OkStatus();
}

absl::Status SetSystem(absl::string_view, CommandLine& line) {
  line.where.user = false;
  return absl::OkStatus();
}

absl::Status SetHost(absl::string_view argument, CommandLine& line) {
  // ssh takes a word that begins with '-' for an option.
  if (argument.empty() || argument[0] == '-') {
    return absl::InvalidArgumentError("--host: not the name of a machine");
  }
  line.where.host = std::string(argument);
  return absl::OkStatus();
}

absl::Status SetMachine(absl::string_view argument, CommandLine& line) {
  if (argument.empty()) {
    return absl::InvalidArgumentError("--machine: not the name of a container");
  }
  line.where.machine = std::string(argument);
  return absl::OkStatus();
}

absl::Status SetJson(absl::string_view argument, CommandLine& line) {
  if (argument == "pretty" || argument.empty()) {
    line.json = Json::kPretty;
  } else if (argument == "short") {
    line.json = Json::kShort;
  } else if (argument == "off") {
    line.json = Json::kOff;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--json=", Quoted(argument),
                     ": \"pretty\", \"short\" or \"off\" is needed"));
  }
  return absl::OkStatus();
}

absl::Status SetPeer(absl::string_view argument, CommandLine& line) {
  if (argument.empty()) return absl::InvalidArgumentError("--peer is empty");
  line.peer = std::string(argument);
  return absl::OkStatus();
}

absl::Status SetDirectory(absl::string_view argument, CommandLine& line) {
  if (argument.empty()) {
    return absl::InvalidArgumentError("--directory is empty");
  }
  line.directory = std::string(argument);
  return absl::OkStatus();
}

absl::Status SetBase(absl::string_view argument, CommandLine& line) {
  if (argument.empty()) return absl::InvalidArgumentError("--base is empty");
  line.base = std::string(argument);
  return absl::OkStatus();
}

absl::Status AddAsked(absl::string_view argument, CommandLine& line) {
  if (argument.empty()) return absl::InvalidArgumentError("--as is empty");
  line.asked.emplace_back(argument);
  return absl::OkStatus();
}

template <auto kField>
absl::Status SetTime(absl::string_view argument, CommandLine& line) {
  line.*kField =
      ParseTimeArgument(argument, absl::Now(), absl::LocalTimeZone());
  if ((line.*kField).has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(argument),
                   " is no time: write \"2026-11-27 09:12\", "
                   "\"yesterday\" or \"2h ago\" (systemd.time(7))"));
}

absl::Status NoTimeSpan(absl::string_view option, absl::string_view argument) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", option, "=", Quoted(argument),
                   ": a time span is needed, such as \"2s\", or \"off\""));
}

absl::Status SetInterval(absl::string_view argument, CommandLine& line) {
  const std::optional<absl::Duration> span = ParseTimeSpan(argument);
  if (!span.has_value()) return NoTimeSpan("interval", argument);
  // ParseTimeSpan() takes 0 and "off" for no limit.
  line.interval =
      *span == absl::InfiniteDuration() ? absl::ZeroDuration() : *span;
  return absl::OkStatus();
}

absl::Status SetTimeout(absl::string_view argument, CommandLine& line) {
  line.timeout = ParseTimeSpan(argument);
  return line.timeout.has_value() ? absl::OkStatus()
                                  : NoTimeSpan("timeout", argument);
}

template <DirectionLimits TransferLimits::*kKind>
absl::Status AddLimit(absl::string_view argument, CommandLine& line) {
  const std::string error = AddTransferLimit(argument, line.limits.*kKind);
  if (error.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(argument), ": ", error));
}

constexpr CtlOptionRow kOptions[] = {
    {.name = "user",
     .help = "the exports of the user's service manager",
     .set = SetUser},
    {.name = "system",
     .help = "the exports of the system's service manager (default)",
     .set = SetSystem},
    {.letter = 'H',
     .name = "host",
     .argument = "=[USER@]HOST",
     .completes = "HOST",
     .help = "the exports of another machine, by ssh",
     .set = SetHost},
    {.letter = 'M',
     .name = "machine",
     .argument = "=CONTAINER",
     .help = "the exports of a local container",
     .set = SetMachine},
    {.name = "json",
     .argument = "[=MODE]",
     .completes = "pretty|short|off",
     .help = "print JSON: pretty (default), short or off",
     .set = SetJson},
    {.name = "no-legend",
     .help = "print no line with the names of columns",
     .set = Clear<&CommandLine::legend>},
    {.name = "no-pager",
     .help = "don't pipe the output into a pager",
     .set = Clear<&CommandLine::pager>},
    {.letter = 'l',
     .name = "full",
     .help = "don't shorten cells to the width of the terminal",
     .set = Set<&CommandLine::full>},
    {.name = "interval",
     .argument = "=TIME",
     .help =
         "measure READ and WRITTEN for so long (up to 3s; off for no rates)",
     .verbs = "list",
     .set = SetInterval},
    {.name = "peer",
     .argument = "=PEER",
     .help = "only this client",
     .verbs = "history",
     .set = SetPeer},
    {.name = "since",
     .argument = "=TIME",
     .completes = "today|yesterday",
     .help = "only connections that ended at this time or later",
     .verbs = "history",
     .set = SetTime<&CommandLine::since>},
    {.name = "until",
     .argument = "=TIME",
     .completes = "today|yesterday",
     .help = "only connections that ended before this time",
     .verbs = "history",
     .set = SetTime<&CommandLine::until>},
    {.name = "now",
     .help = "also start or stop it",
     .verbs = "enable disable",
     .set = Set<&CommandLine::now>},
    {.name = "directory",
     .argument = "=DIR",
     .help = "the copies in DIR, and no others",
     .verbs = "copies",
     .set = SetDirectory},
    {.name = "base",
     .argument = "=FILE",
     .help = "merge into FILE, and not into the export's file",
     .verbs = "copies",
     .set = SetBase},
    {.name = "force",
     .help = "merge, even if other copies become stale; and into a block "
             "device, even if the units can't be read",
     .verbs = "copies",
     .set = Set<&CommandLine::force>},
    {.name = "max-rate",
     .argument = "=BYTES[:BURST]",
     .help = "bytes of a client in a second; if given twice, of its reads, "
             "and of its writes",
     .verbs = "limit",
     .repeats = true,
     .set = AddLimit<&TransferLimits::bytes>},
    {.name = "max-iops",
     .argument = "=NUMBER[:BURST]",
     .help = "requests, likewise",
     .verbs = "limit",
     .repeats = true,
     .set = AddLimit<&TransferLimits::requests>},
    {.name = "as",
     .argument = "=WHO",
     .completes = kWhoAndTlsForms,
     .help = "what this client would get, and which rule says so",
     .verbs = "check",
     .repeats = true,
     .set = AddAsked},
    {.name = "drain",
     .help = "let clients that connect again see no error",
     .verbs = "disconnect",
     .set = Set<&CommandLine::drain>},
    {.name = "all",
     .help = "every export, and the machine for HAProxy's agent-check",
     .verbs = "drain undrain",
     .set = Set<&CommandLine::all>},
    {.name = "runtime",
     .help = "only until the machine is booted again",
     .verbs = "drain",
     .set = Set<&CommandLine::runtime>},
    {.name = "read",
     .help = "also read the first sector, which needs the export for itself "
             "if it is exclusive",
     .verbs = "probe",
     .set = Set<&CommandLine::read>},
    {.name = "agent",
     .help = "answer as HAProxy's agent-check expects",
     .verbs = "probe",
     .set = Set<&CommandLine::agent>},
    {.name = "timeout",
     .argument = "=TIME",
     .help = "the time for all of it (probe: 5s, drain: 2min)",
     .verbs = "drain probe",
     .set = SetTimeout},
    {.name = "http",
     .help = "answer an HTTP request on standard input and output",
     .verbs = "metrics",
     .set = Set<&CommandLine::http>},
    {.letter = 'h',
     .name = "help",
     .help = "print this help",
     .set = Set<&CommandLine::help>},
    {.name = "version",
     .help = "print the version",
     .set = Set<&CommandLine::version>},
};

constexpr size_t kAnyNumber = std::numeric_limits<size_t>::max();

constexpr VerbRow kVerbs[] = {
    {"list", "", 0, 0, "exports: address, file, size, clients, rates (default)",
     List},
    {"connections", "[EXPORT]", 0, 1, "clients that are connected now",
     Connections},
    {"history", "[EXPORT]", 0, 1,
     "connections that have ended: who, when, how much, why", History},
    {"disconnect", "PEER|EXPORT", 1, 1,
     "end connections: requests under way are answered first", Disconnect},
    {"drain", "[EXPORT...]", 0, kAnyNumber,
     "take exports out of service: clients that connect again see no error",
     Drain},
    {"undrain", "[EXPORT...]", 0, kAnyNumber, "the opposite", Undrain},
    {"enable", "EXPORT", 1, 1, "start it with the machine", Enable},
    {"disable", "EXPORT", 1, 1, "don't start it with the machine", Disable},
    {"start", "EXPORT", 1, 1, "listen for clients", Start},
    {"stop", "EXPORT", 1, 1, "stop listening; connections stay", Stop},
    {"check", "[EXPORT|FILE]", 0, 1, "find what would keep clients away",
     CheckExports},
    {"copies", "[list|discard COPY|merge COPY|export COPY FILE]", 0, 3,
     "what clients have written into copies that are kept", Copies},
    {"limit", "EXPORT", 1, 1,
     "how much each client may transfer: --max-rate, --max-iops", Limit},
    {"probe", "URI", 1, 1,
     "whether a server serves an export: by a client's handshake", Probe},
    {"metrics", "", 0, 0, "print figures for Prometheus", Metrics},
};

// The arrays of getopt_long(). Options without a letter have a value from
// `kFirstLong` on.
constexpr int kFirstLong = 256;

struct GetoptArrays {
  // With a leading ':', getopt_long() returns ':' for a missing argument and
  // '?' for other errors.
  std::string letters = ":";
  std::vector<option> options;
};

GetoptArrays MakeArrays() {
  GetoptArrays arrays;
  int value = kFirstLong;
  for (const CtlOptionRow& row : kOptions) {
    const int has_argument = row.argument[0] == '\0'  ? no_argument
                             : row.argument[0] == '[' ? optional_argument
                                                      : required_argument;
    if (row.letter != '\0') {
      arrays.letters += row.letter;
      if (has_argument == required_argument) arrays.letters += ':';
    }
    arrays.options.push_back({row.name, has_argument, nullptr, value++});
  }
  arrays.options.push_back({});
  return arrays;
}

// nullptr for none.
const CtlOptionRow* RowOf(int value) {
  if (value >= kFirstLong) return &kOptions[value - kFirstLong];
  for (const CtlOptionRow& row : kOptions) {
    if (row.letter == value && value != 0) return &row;
  }
  return nullptr;
}

bool IsForVerb(const CtlOptionRow& row, absl::string_view verb) {
  if (row.verbs[0] == '\0') return true;
  const std::vector<absl::string_view> verbs = absl::StrSplit(row.verbs, ' ');
  return std::find(verbs.begin(), verbs.end(), verb) != verbs.end();
}

// The verb or option that is most similar to a wrong one, if at most a third of
// its characters differ; empty for none.
template <typename Row>
std::string MostSimilar(absl::Span<const Row> rows, absl::string_view word) {
  std::string similar;
  size_t least = word.size() / 3 + 1;
  for (const Row& row : rows) {
    const size_t distance = EditDistance(word, row.name);
    if (distance >= least) continue;
    least = distance;
    similar = row.name;
  }
  return similar;
}

constexpr char kHelpShowsAll[] = "'nbdinetctl --help' shows all";

std::string UnknownVerb(const std::string& word) {
  const std::string similar = MostSimilar(VerbRows(), word);
  return absl::StrCat(
      "unknown verb ", Quoted(word), ": ",
      similar.empty() ? "" : absl::StrCat("did you mean ", similar, "? "),
      kHelpShowsAll);
}

// `option`: "-z" or "--name".
std::string UnknownOption(absl::string_view option) {
  absl::string_view name = option;
  std::string similar;
  std::vector<std::string> longer;
  if (absl::ConsumePrefix(&name, "--")) {
    similar = MostSimilar(OptionRows(), name);
    for (const CtlOptionRow& row : kOptions) {
      if (absl::StartsWith(row.name, name)) {
        longer.push_back(absl::StrCat("--", row.name));
      }
    }
  }
  if (longer.size() > 1) {
    return absl::StrCat(
        "option ", Quoted(option),
        " is the beginning of several: ", absl::StrJoin(longer, ", "));
  }
  return absl::StrCat(
      "unknown option ", Quoted(option), ": ",
      similar.empty() ? "" : absl::StrCat("did you mean --", similar, "? "),
      kHelpShowsAll);
}

// What is wrong with an option, as getopt_long() reports it: by ':' or '?', and
// optopt. `word` is the last one that it has read: a long option's.
std::string WrongOption(int value, absl::string_view word) {
  const CtlOptionRow* row = RowOf(optopt);
  const bool is_long = optopt == 0 || optopt >= kFirstLong;
  const char letter = static_cast<char>(optopt);
  const std::string option = is_long
                                 ? std::string(word.substr(0, word.find('=')))
                                 : std::string({'-', letter});
  if (row == nullptr) return UnknownOption(option);
  return value == ':'
             ? absl::StrCat(option, " needs an argument: --", row->name,
                            row->argument)
             : absl::StrCat(option, " takes no argument: ", Quoted(word));
}

absl::Status CheckUse(const CommandLine& line,
                      absl::Span<const CtlOptionRow* const> given) {
  const VerbRow* verb = FindVerb(line.verb);
  if (verb == nullptr) {
    return absl::InvalidArgumentError(UnknownVerb(line.verb));
  }
  for (const CtlOptionRow* row : given) {
    if (!IsForVerb(*row, line.verb)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", row->name, " is for ",
                       absl::StrReplaceAll(row->verbs, {{" ", " and "}}),
                       ", not for ", line.verb));
    }
  }
  if (line.arguments.size() < verb->fewest ||
      line.arguments.size() > verb->most) {
    return absl::InvalidArgumentError(
        absl::StrCat("usage: nbdinetctl ", verb->name,
                     verb->arguments[0] == '\0' ? "" : " ", verb->arguments));
  }
  const Where& where = line.where;
  if (!where.host.empty() && (!where.machine.empty() || where.user)) {
    return absl::InvalidArgumentError(
        "--host can't be combined with --user or --machine");
  }
  return absl::OkStatus();
}

void AppendRow(absl::string_view left, absl::string_view right,
               std::string* text) {
  constexpr size_t kIndent = 28;
  absl::StrAppend(text, "  ", left);
  const size_t used = left.size() + 2;
  absl::StrAppend(text,
                  used < kIndent ? std::string(kIndent - used, ' ')
                                 : "\n" + std::string(kIndent, ' '),
                  right, "\n");
}

}  // namespace

absl::Span<const CtlOptionRow> OptionRows() { return kOptions; }
absl::Span<const VerbRow> VerbRows() { return kVerbs; }

const VerbRow* FindVerb(absl::string_view name) {
  for (const VerbRow& verb : kVerbs) {
    if (name == verb.name) return &verb;
  }
  return nullptr;
}

absl::Status ParseCommandLine(int argc, char** argv, CommandLine* line) {
  const GetoptArrays arrays = MakeArrays();
  std::vector<const CtlOptionRow*> given;
  optind = 0;
  opterr = 0;
  for (;;) {
    const int value = getopt_long(argc, argv, arrays.letters.c_str(),
                                  arrays.options.data(), nullptr);
    if (value == -1) break;
    if (value == '?' || value == ':') {
      return absl::InvalidArgumentError(WrongOption(value, argv[optind - 1]));
    }
    const CtlOptionRow* row = RowOf(value);
    given.push_back(row);
    absl::Status status = row->set(optarg == nullptr ? "" : optarg, *line);
    if (!status.ok()) return status;
  }
  for (int i = optind; i < argc; ++i) line->arguments.push_back(argv[i]);
  line->verb = "list";
  if (!line->arguments.empty()) {
    line->verb = line->arguments.front();
    line->arguments.erase(line->arguments.begin());
  }
  if (line->help || line->version) return absl::OkStatus();
  return CheckUse(*line, given);
}

std::string HelpText() {
  std::string text =
      "usage: nbdinetctl [OPTION]... [VERB [ARGUMENT]]\n"
      "Shows and controls the exports of nbdinetd under systemd.\n\nVerbs:\n";
  for (const VerbRow& verb : kVerbs) {
    AppendRow(absl::StrCat(verb.name, verb.arguments[0] == '\0' ? "" : " ",
                           verb.arguments),
              verb.help, &text);
  }
  text += "\nOptions:\n";
  for (const CtlOptionRow& row : kOptions) {
    const std::string letter =
        row.letter == '\0'
            ? ""
            : absl::StrCat("-", std::string(1, row.letter), ", ");
    AppendRow(absl::StrCat(letter, "--", row.name, row.argument),
              row.verbs[0] == '\0'
                  ? std::string(row.help)
                  : absl::StrCat(absl::StrReplaceAll(row.verbs, {{" ", ", "}}),
                                 ": ", row.help),
              &text);
  }
  return text + "\nnbdinetctl(1) explains them, and the fields of --json.\n";
}

}  // namespace nbdinetd::ctl
