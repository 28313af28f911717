#include "cli/options.h"

#include <getopt.h>

#include <initializer_list>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/time_span.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

// Long options without a letter of their own.
enum LongOnly {
  kDescription = 256,
  kDirectory,
  kLog,
  kCheck,
  kHelp,
  kVsock,
  kRun,
  kMaxConnections,
  kExitIdle,
  kHandshakeTimeout,
  kStallTimeout,
  kIdleTimeout,
  kKeepaliveTime,
  kTls,
  kTlsCertificates,
  kTlsPsk,
  kTlsVerifyPeer,
  kTlsAllow,
  kAllow,
  kDeny,
  kExclusive,
  kSandbox,
};

constexpr char kShortOptions[] = ":re:sfp:i:U:P:u:g:vV";
constexpr option kLongOptions[] = {
    {"readonly", no_argument, nullptr, 'r'},
    {"exportname", required_argument, nullptr, 'e'},
    {"export-name", required_argument, nullptr, 'e'},
    {"description", required_argument, nullptr, kDescription},
    {"directory", required_argument, nullptr, kDirectory},
    {"single", no_argument, nullptr, 's'},
    {"foreground", no_argument, nullptr, 'f'},
    {"port", required_argument, nullptr, 'p'},
    {"ipaddr", required_argument, nullptr, 'i'},
    {"unix", required_argument, nullptr, 'U'},
    {"vsock", no_argument, nullptr, kVsock},
    {"run", required_argument, nullptr, kRun},
    {"pidfile", required_argument, nullptr, 'P'},
    {"user", required_argument, nullptr, 'u'},
    {"group", required_argument, nullptr, 'g'},
    {"max-connections", required_argument, nullptr, kMaxConnections},
    {"exit-idle", required_argument, nullptr, kExitIdle},
    {"handshake-timeout", required_argument, nullptr, kHandshakeTimeout},
    {"stall-timeout", required_argument, nullptr, kStallTimeout},
    {"idle-timeout", required_argument, nullptr, kIdleTimeout},
    {"keepalive", required_argument, nullptr, kKeepaliveTime},
    {"tls", required_argument, nullptr, kTls},
    {"tls-certificates", required_argument, nullptr, kTlsCertificates},
    {"tls-psk", required_argument, nullptr, kTlsPsk},
    {"tls-verify-peer", no_argument, nullptr, kTlsVerifyPeer},
    {"tls-allow", required_argument, nullptr, kTlsAllow},
    {"allow", required_argument, nullptr, kAllow},
    {"deny", required_argument, nullptr, kDeny},
    {"exclusive", optional_argument, nullptr, kExclusive},
    {"sandbox", required_argument, nullptr, kSandbox},
    {"log", required_argument, nullptr, kLog},
    {"verbose", no_argument, nullptr, 'v'},
    {"check", no_argument, nullptr, kCheck},
    {"version", no_argument, nullptr, 'V'},
    {"help", no_argument, nullptr, kHelp},
    {nullptr, 0, nullptr, 0},
};

absl::Status CheckString(absl::string_view option, absl::string_view text) {
  if (text.size() <= kMaxStringBytes && IsValidUtf8(text)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": NBD wants valid UTF-8 of no more than ",
                   kMaxStringBytes, " bytes"));
}

// What `word` stands for, of those that an option knows.
template <typename Value>
std::optional<Value> FindWord(
    absl::string_view word,
    std::initializer_list<std::pair<absl::string_view, Value>> known) {
  for (const auto& [name, value] : known) {
    if (name == word) return value;
  }
  return std::nullopt;
}

absl::Status ParseLog(absl::string_view name, Options* options) {
  const auto destination = FindWord<LogDestination>(
      name, {{"stderr", LogDestination::kStandardError},
             {"syslog", LogDestination::kSyslog},
             {"journal", LogDestination::kJournal},
             {"null", LogDestination::kNull}});
  if (!destination.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--log=", Quoted(name),
                     ": there is no such destination; use stderr, syslog, "
                     "journal or null"));
  }
  options->log = *destination;
  return absl::OkStatus();
}

absl::Status ParseExclusive(absl::string_view name, Options* options) {
  const auto mode =
      FindWord<Exclusive>(name, {{"refuse", Exclusive::kRefuse},
                                 {"wait", Exclusive::kWait},
                                 {"takeover", Exclusive::kTakeover}});
  if (!mode.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--exclusive=", Quoted(name),
                     ": a client whose export is in use can be dealt with by "
                     "refuse, wait or takeover"));
  }
  options->exclusive = *mode;
  return absl::OkStatus();
}

absl::Status ParseSandbox(absl::string_view name, Options* options) {
  const auto mode =
      FindWord<SandboxMode>(name, {{"off", SandboxMode::kOff},
                                   {"on", SandboxMode::kOn},
                                   {"require", SandboxMode::kRequire}});
  if (!mode.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--sandbox=", Quoted(name), ": use on, off or require"));
  }
  options->sandbox = *mode;
  return absl::OkStatus();
}

absl::Status ParseTime(absl::string_view option, absl::string_view text,
                       absl::Duration* duration) {
  const std::optional<absl::Duration> parsed = ParseTimeSpan(text);
  if (!parsed.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, "=", Quoted(text),
                     ": this is no time; use a number with a unit, such as "
                     "30s, 2min or 1h 30min, or 0 for no limit"));
  }
  *duration = *parsed;
  return absl::OkStatus();
}

// An empty argument is mostly a variable that isn't set. It must not mean the
// same as no option: all addresses, or no other user.
absl::Status CheckNotEmpty(absl::string_view option, absl::string_view text) {
  if (!text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option, " is empty"));
}

absl::Status ParseTls(absl::string_view name, Options* options) {
  options->tls_given = true;
  const auto mode = FindWord<TlsMode>(name, {{"off", TlsMode::kOff},
                                             {"on", TlsMode::kOn},
                                             {"require", TlsMode::kRequire}});
  if (!mode.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls=", Quoted(name), ": use off, on or require"));
  }
  options->tls.mode = *mode;
  return absl::OkStatus();
}

absl::Status ParsePort(absl::string_view text, Options* options) {
  uint32_t port = 0;
  if (!absl::SimpleAtoi(text, &port) || port == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--port=", Quoted(text), ": a port is a number from 1 to 65535"));
  }
  options->listen.port = port;
  return absl::OkStatus();
}

absl::Status ParseMaxConnections(absl::string_view text, Options* options) {
  uint32_t count = 0;
  if (!absl::SimpleAtoi(text, &count) || count == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-connections=", Quoted(text), ": a number from 1 on is needed"));
  }
  options->max_connections = count;
  return absl::OkStatus();
}

// Notes that `name` asks for a socket of our own.
void AskForOwnSocket(const char* name, Options* options) {
  if (options->activation.own_socket.empty()) {
    options->activation.own_socket = name;
  }
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
    case kDirectory:
      options->directory = argument;
      return options->directory.empty()
                 ? absl::InvalidArgumentError("--directory needs a directory")
                 : absl::OkStatus();
    case 's':
      options->activation.single = true;
      return absl::OkStatus();
    case 'f':
      options->activation.foreground = true;
      return absl::OkStatus();
    case 'p':
      AskForOwnSocket("--port", options);
      return ParsePort(argument, options);
    case 'i':
      AskForOwnSocket("--ipaddr", options);
      options->listen.ip_address = argument;
      return CheckNotEmpty("--ipaddr", argument);
    case 'U':
      AskForOwnSocket("--unix", options);
      options->listen.unix_path = argument;
      return CheckNotEmpty("--unix", argument);
    case kVsock:
      AskForOwnSocket("--vsock", options);
      options->listen.vsock = true;
      return absl::OkStatus();
    case kRun:
      AskForOwnSocket("--run", options);
      options->run = argument;
      return CheckNotEmpty("--run", argument);
    case 'P':
      options->pidfile = argument;
      return CheckNotEmpty("--pidfile", argument);
    case 'u':
      options->user = argument;
      return CheckNotEmpty("--user", argument);
    case 'g':
      options->group = argument;
      return CheckNotEmpty("--group", argument);
    case kMaxConnections:
      return ParseMaxConnections(argument, options);
    case kExitIdle:
      return ParseTime("--exit-idle", argument, &options->exit_idle);
    case kHandshakeTimeout:
      return ParseTime("--handshake-timeout", argument,
                       &options->timeouts.handshake);
    case kStallTimeout:
      return ParseTime("--stall-timeout", argument, &options->timeouts.stall);
    case kIdleTimeout:
      return ParseTime("--idle-timeout", argument, &options->timeouts.idle);
    case kKeepaliveTime:
      return ParseTime("--keepalive", argument, &options->timeouts.keepalive);
    case kTls:
      return ParseTls(argument, options);
    case kTlsCertificates:
      options->tls.certificates = argument;
      return CheckNotEmpty("--tls-certificates", argument);
    case kTlsPsk:
      options->tls.psk_file = argument;
      return CheckNotEmpty("--tls-psk", argument);
    case kTlsVerifyPeer:
      options->tls.verify_peer = true;
      return absl::OkStatus();
    case kTlsAllow:
      options->tls.allow.push_back(argument);
      return CheckNotEmpty("--tls-allow", argument);
    case kExclusive:
      return ParseExclusive(argument == nullptr ? "refuse" : argument, options);
    case kSandbox:
      return ParseSandbox(argument, options);
    case kAllow:
      return options->access.Add(AccessRules::Action::kAllow, argument);
    case kDeny:
      return options->access.Add(AccessRules::Action::kDeny, argument);
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
      optopt == 0 ||
      (known && (code == '?' || absl::StartsWith(argument, "--")));
  const std::string name =
      is_long ? std::string(argument)
              : absl::StrCat("-", std::string(1, static_cast<char>(optopt)));
  return absl::InvalidArgumentError(
      absl::StrCat("option ", Quoted(name),
                   code == ':' ? " needs an argument"
                   : known     ? " takes no argument"
                               : " is unknown, or stands for several"));
}

// Options that make no sense together.
absl::Status CheckTogether(const Options& options) {
  const ListenAddress& listen = options.listen;
  const auto exclude = [](absl::string_view a, absl::string_view b) {
    return absl::InvalidArgumentError(
        absl::StrCat(a, " and ", b, " can't be used together"));
  };
  if (!listen.unix_path.empty()) {
    if (listen.vsock) return exclude("--unix", "--vsock");
    if (listen.port != 0) return exclude("--unix", "--port");
    if (!listen.ip_address.empty()) return exclude("--unix", "--ipaddr");
  }
  if (listen.vsock && !listen.ip_address.empty()) {
    return exclude("--vsock", "--ipaddr");
  }
  if (listen.port > 65535 && !listen.vsock) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--port=", listen.port, ": a port of TCP is a number from 1 to 65535"));
  }
  if (!options.directory.empty()) {
    if (!options.file.empty()) return exclude("FILE", "--directory");
    // Each has a description of its own.
    if (!options.description.empty()) {
      return exclude("--description", "--directory");
    }
  }
  if (options.activation.single && !options.activation.own_socket.empty()) {
    return exclude("--single", options.activation.own_socket);
  }
  return absl::OkStatus();
}

// What --tls is when it isn't given, and what makes no sense with it.
absl::Status SettleTls(Options* options) {
  TlsSettings& tls = options->tls;
  if (!options->tls_given &&
      (!tls.certificates.empty() || !tls.psk_file.empty() || tls.verify_peer)) {
    tls.mode = TlsMode::kOn;
  }
  if (!tls.allow.empty() && tls.mode != TlsMode::kRequire) {
    return absl::InvalidArgumentError(
        "--tls-allow needs --tls=require: a client that isn't allowed would "
        "else do without TLS");
  }
  return absl::OkStatus();
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
  // A nbdkit user's "file /srv/disk.img": the one plugin that there would be.
  if (argc - optind == 2 && absl::string_view(argv[optind]) == "file") ++optind;
  if (optind < argc) options->file = argv[optind];
  if (argc - optind > 1) {
    first_error.Update(absl::InvalidArgumentError(absl::StrCat(
        "one FILE is served, but ", argc - optind, " were given")));
  }
  first_error.Update(CheckTogether(*options));
  first_error.Update(SettleTls(options));
  return first_error;
}

absl::string_view HelpText() {
  return R"(Usage: nbdinetd [OPTIONS] FILE
       nbdinetd [OPTIONS] --directory=DIR
       nbdinetd [OPTIONS]          serve the files handed over as descriptors

Serve a regular file or block device to NBD clients, with one process for each
connection. The connection comes from systemd, xinetd, inetd or ssh; or the
listening sockets come from systemd; or nbdinetd listens by itself, when an
option under "Listening" asks for it or standard input is a terminal.

  -r, --readonly             export read-only
  -e, --exportname=NAME      the export's name (without it, any name will do)
      --description=TEXT     a description for clients that list exports
      --directory=DIR        each file in DIR is an export under its own name;
                             with -e, NAME is the default export
      --exclusive[=MODE]     one client at a time on an export; what becomes of
                             others: refuse (the default), wait or takeover
      --sandbox=MODE         what the process of a connection gives up before
                             its client's first byte: on (the default, as far as
                             the kernel has it), off, or require (or else the
                             client isn't served)
      --log=DESTINATION      stderr, syslog, journal or null
  -v, --verbose              debug messages on standard error
      --check                open FILE or DIR, say what would be served, exit
  -V, --version              print the version and exit
      --help                 print this help and exit

The client at hand:
  -s, --single               serve standard input and output, then exit

Listening (-p, -i, -U, --vsock, -f or --run asks for it):
  -p, --port=PORT            TCP port, 10809 by default
  -i, --ipaddr=IP            only on this address, not on all
  -U, --unix=PATH            on a Unix socket; - makes a private one
      --vsock                on vsock
  -f, --foreground           do not fork into the background
      --run=COMMAND          listen, run COMMAND, and exit with its status
  -P, --pidfile=PATH         write the process id to PATH
  -u, --user=USER            change to this user after the sockets are open
  -g, --group=GROUP          and to this group
      --max-connections=N    at most N connections at once
      --exit-idle=TIME       activated by systemd: exit when nobody has been
                             connected for so long

TLS:
      --tls=off|on|require   whether clients may, or must, use it; off unless
                             another of these options is given, then on
      --tls-certificates=DIR ca-cert.pem, server-cert.pem, server-key.pem and
                             perhaps ca-crl.pem
      --tls-psk=FILE         pre-shared keys instead: lines of user:hexkey
      --tls-verify-peer      clients need a certificate of ca-cert.pem's
      --tls-allow=PATTERN    only clients whose certificate's subject, or PSK
                             user, matches; may be given again

Who may connect (an address, a network, uid:USER, gid:GROUP, unix:, vsock: or
vsock:CID; repeatable; the most specific one that matches holds):
      --allow=WHO            and nobody else of the same family
      --deny=WHO             not this one

Limits for the peer (10s, 2min, 0 for none):
      --handshake-timeout=TIME   from accept to the end of negotiation, 10s
      --stall-timeout=TIME       no progress inside a message, 60s
      --idle-timeout=TIME        no request, off
      --keepalive=TIME           TCP: silent, and no answer of its machine, 2min

The manual pages nbdinetd(8) and nbdinetd-service(8) explain all of it.
)";
}

}  // namespace nbdinetd
