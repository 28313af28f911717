#include "cli/option_table.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/block_sizes.h"
#include "base/byte_size.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/time_span.h"
#include "base/utf8.h"
#include "cli/transfer_limit_argument.h"
#include "negotiation/agreement.h"
#include "protocol/option.h"
#include "protocol/reply.h"

namespace nbdinetd {
namespace {

absl::Status Complain(const GivenOption& given, absl::string_view complaint) {
  return absl::InvalidArgumentError(
      absl::StrCat(given.name, "=", Quoted(given.argument), ": ", complaint));
}

// A field of Options, or of one of its members: &Options::listen,
// &ListenAddress::port.
template <auto... kPath>
auto& Field(Options& options) {
  return (options.*....*kPath);
}

template <auto... kPath>
absl::Status Flag(const GivenOption&, Options& options) {
  Field<kPath...>(options) = true;
  return absl::OkStatus();
}

// An option of nbdkit's that changes nothing here.
absl::Status Ignore(const GivenOption&, Options&) { return absl::OkStatus(); }

// Stores a text that must not be empty. An empty one is usually an unset
// variable, and must not mean the same as no option: all addresses, or no
// change of user.
absl::Status SetText(const GivenOption& given, std::string& text) {
  text = std::string(given.argument);
  if (!text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(given.name, " is empty; is a variable unset?"));
}

template <auto... kPath>
absl::Status Text(const GivenOption& given, Options& options) {
  return SetText(given, Field<kPath...>(options));
}

// A valid string (the specification, "Conventions").
template <auto... kPath>
absl::Status NbdString(const GivenOption& given, Options& options) {
  Field<kPath...>(options) = std::string(given.argument);
  if (given.argument.size() <= kMaxStringBytes && IsValidUtf8(given.argument)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(given.name, ": NBD wants valid UTF-8 of no more than ",
                   kMaxStringBytes, " bytes"));
}

template <auto... kPath>
absl::Status Time(const GivenOption& given, Options& options) {
  const std::optional<absl::Duration> time = ParseTimeSpan(given.argument);
  if (!time.has_value()) {
    return Complain(given,
                    "this is no time; use a number with a unit, such as 30s, "
                    "2min or 1h 30min, or 0 for no limit");
  }
  Field<kPath...>(options) = *time;
  return absl::OkStatus();
}

// Stores a number of 1 or more.
absl::Status SetNumber(const GivenOption& given, absl::string_view complaint,
                       uint32_t& number) {
  uint32_t parsed = 0;
  if (!absl::SimpleAtoi(given.argument, &parsed) || parsed == 0) {
    return Complain(given, complaint);
  }
  number = parsed;
  return absl::OkStatus();
}

absl::Status SetPort(const GivenOption& given, Options& options) {
  return SetNumber(given, "a port is a number from 1 to 65535",
                   options.listen.port);
}

absl::Status SetMaxConnections(const GivenOption& given, Options& options) {
  return SetNumber(given, "a number from 1 on is needed",
                   options.max_connections);
}

template <typename Value>
using Words = std::initializer_list<std::pair<absl::string_view, Value>>;

// Stores the value of one of a few words.
template <typename Value, typename Target>
absl::Status SetWord(const GivenOption& given, Words<Value> words,
                     absl::string_view complaint, Target& value) {
  for (const auto& [word, meaning] : words) {
    if (word != given.argument) continue;
    value = meaning;
    return absl::OkStatus();
  }
  return Complain(given, complaint);
}

absl::Status SetThreads(const GivenOption& given, Options&) {
  uint32_t ignored = 0;
  return SetNumber(given, "a number from 1 on is needed", ignored);
}

absl::Status SetParent(const GivenOption&, Options& options) {
  options.parent = getppid();
  return absl::OkStatus();
}

template <int kFamily>
absl::Status SetFamily(const GivenOption&, Options& options) {
  options.listen.family = kFamily;
  return absl::OkStatus();
}

absl::Status SetLog(const GivenOption& given, Options& options) {
  options.log.reset();
  options.log_file.clear();
  if (given.argument == "default") return absl::OkStatus();
  if (absl::StartsWith(given.argument, "/")) {
    options.log = LogDestination::kFile;
    options.log_file = std::string(given.argument);
    return absl::OkStatus();
  }
  return SetWord<LogDestination>(given,
                                 {{"stderr", LogDestination::kStandardError},
                                  {"syslog", LogDestination::kSyslog},
                                  {"journal", LogDestination::kJournal},
                                  {"null", LogDestination::kNull}},
                                 "there is no such destination; use stderr, "
                                 "syslog, journal, null or the absolute path "
                                 "of a file",
                                 options.log);
}

absl::Status SetCheck(const GivenOption& given, Options& options) {
  options.check = true;
  return SetWord<bool>(given, {{"text", false}, {"json", true}},
                       "use text or json", options.check_json);
}

absl::Status SetBlockSize(const GivenOption& given, Options& options) {
  const absl::StatusOr<BlockSizes> sizes = ParseBlockSizes(given.argument);
  if (!sizes.ok()) return Complain(given, sizes.status().message());
  options.export_settings.block_sizes = *sizes;
  return absl::OkStatus();
}

constexpr char kNoByteSize[] =
    "this is no number of bytes; use a number, or one with K, M, G or T";

// Stores a number of bytes that a file can have.
template <typename Target>
absl::Status SetBytes(const GivenOption& given, absl::string_view text,
                      Target& bytes) {
  const std::optional<uint64_t> parsed = ParseByteSize(text);
  if (!parsed.has_value()) return Complain(given, kNoByteSize);
  if (*parsed > std::numeric_limits<int64_t>::max()) {
    return Complain(given, "no file is so large; use less than 2^63");
  }
  bytes = *parsed;
  return absl::OkStatus();
}

Part& PartIn(Options& options) {
  std::optional<Part>& part = options.export_settings.part;
  return part.has_value() ? *part : part.emplace();
}

absl::Status SetOffset(const GivenOption& given, Options& options) {
  return SetBytes(given, given.argument, PartIn(options).offset);
}

absl::Status SetLength(const GivenOption& given, Options& options) {
  return SetBytes(given, given.argument, PartIn(options).length);
}

absl::Status SetPartition(const GivenOption& given, Options& options) {
  absl::StatusOr<PartitionName> name = ParsePartitionName(given.argument);
  if (!name.ok()) return Complain(given, name.status().message());
  options.export_settings.partition = *std::move(name);
  return absl::OkStatus();
}

absl::Status SetSize(const GivenOption& given, Options& options) {
  SizeChange& size = options.export_settings.size.emplace();
  absl::string_view text = given.argument;
  if (absl::ConsumePrefix(&text, "up:")) {
    size.kind = SizeChange::Kind::kUp;
  } else if (absl::ConsumePrefix(&text, "down:")) {
    size.kind = SizeChange::Kind::kDown;
  }
  if (absl::Status status = SetBytes(given, text, size.bytes); !status.ok()) {
    return status;
  }
  return size.kind == SizeChange::Kind::kExactly || size.bytes > 0
             ? absl::OkStatus()
             : Complain(given, "each size is a multiple of 0; use 1 or more");
}

// Stores NUMBER[:BURST] for both directions; the second one is for writes.
template <DirectionLimits TransferLimits::*kKind>
absl::Status AddRateLimit(const GivenOption& given, Options& options) {
  const std::string error =
      AddTransferLimit(given.argument, options.transfer_limits.*kKind);
  return error.empty() ? absl::OkStatus() : Complain(given, error);
}

absl::Status SetCache(const GivenOption& given, Options& options) {
  return SetWord<CacheMode>(given,
                            {{"writeback", CacheMode::kWriteback},
                             {"writethrough", CacheMode::kWritethrough},
                             {"drop", CacheMode::kDrop},
                             {"none", CacheMode::kNone},
                             {"direct", CacheMode::kNone},
                             {"directsync", CacheMode::kDirectsync}},
                            "use writeback, writethrough, drop, none (or "
                            "direct) or directsync",
                            options.export_settings.cache);
}

absl::Status SetCow(const GivenOption& given, Options& options) {
  options.copies.enabled = true;
  return SetWord<bool>(given, {{"discard", false}, {"keep", true}},
                       "use discard or keep", options.copies.keep);
}

absl::Status SetCowKey(const GivenOption& given, Options& options) {
  options.copies.key_given = true;
  return SetWord<CopyKey>(
      given, {{"tls", CopyKey::kTls}, {"peer-address", CopyKey::kPeerAddress}},
      "use tls or peer-address", options.copies.key);
}

absl::Status SetCowStale(const GivenOption& given, Options& options) {
  options.copies.stale_given = true;
  return SetWord<bool>(given, {{"refuse", false}, {"discard", true}},
                       "use refuse or discard", options.copies.discard_stale);
}

absl::Status SetCowDir(const GivenOption& given, Options& options) {
  options.copies.in_memory = given.argument == "memory";
  if (!options.copies.in_memory) {
    return SetText(given, options.copies.directory);
  }
  options.copies.directory.clear();
  return absl::OkStatus();
}

absl::Status SetCowSize(const GivenOption& given, Options& options) {
  return SetBytes(given, given.argument, options.copies.max_bytes);
}

absl::Status SetMultiConn(const GivenOption& given, Options& options) {
  return SetWord<std::optional<bool>>(
      given, {{"auto", std::nullopt}, {"on", true}, {"off", false}},
      "use auto, on or off", options.multi_conn);
}

// Stores STYLE or STYLE,base:allocation.
absl::Status SetNegotiated(const GivenOption& given, Options& options) {
  Agreement& agreement = options.negotiated.emplace();
  const size_t comma = given.argument.find(',');
  absl::Status status = SetWord<ReplyStyle>(
      {given.name, given.argument.substr(0, comma)},
      {{"simple", ReplyStyle::kSimple},
       {"structured", ReplyStyle::kStructured},
       {"extended", ReplyStyle::kExtended}},
      "use simple, structured or extended, as the client and the other program "
      "have negotiated",
      agreement.style);
  if (!status.ok() || comma == absl::string_view::npos) return status;
  if (given.argument.substr(comma + 1) != kBaseAllocation) {
    return Complain(
        given, absl::StrCat("the only metadata context is ", kBaseAllocation,
                            "; behind a comma, use that"));
  }
  if (agreement.style == ReplyStyle::kSimple) {
    return Complain(
        given,
        "a metadata context needs structured or extended replies: "
        "leave out the context, and answer NBD_OPT_SET_META_CONTEXT "
        "with NBD_REP_ERR_INVALID");
  }
  agreement.base_allocation = true;
  return absl::OkStatus();
}

absl::Status SetExclusive(const GivenOption& given, Options& options) {
  return SetWord<Exclusive>(given,
                            {{"refuse", Exclusive::kRefuse},
                             {"wait", Exclusive::kWait},
                             {"takeover", Exclusive::kTakeover}},
                            "use refuse, wait or takeover", options.exclusive);
}

absl::Status SetSandbox(const GivenOption& given, Options& options) {
  return SetWord<SandboxMode>(given,
                              {{"off", SandboxMode::kOff},
                               {"on", SandboxMode::kOn},
                               {"require", SandboxMode::kRequire}},
                              "use on, off or require", options.sandbox);
}

absl::Status SetTls(const GivenOption& given, Options& options) {
  options.tls_given = true;
  return SetWord<TlsMode>(given,
                          {{"off", TlsMode::kOff},
                           {"on", TlsMode::kOn},
                           {"require", TlsMode::kRequire}},
                          "use off, on or require", options.tls.mode);
}

absl::Status AddTlsPattern(const GivenOption& given, Options& options) {
  return SetText(given, options.tls.allow.emplace_back());
}

template <AccessRules::Action kAction>
absl::Status AddRule(const GivenOption& given, Options& options) {
  return options.access.Add(kAction, given.argument, given.names);
}

absl::Status AddAsked(const GivenOption& given, Options& options) {
  const absl::Status status = options.asked.Add(given.argument);
  return status.ok() ? status : Complain(given, status.message());
}

using enum HelpSection;

// Reasons why an option has no key.
constexpr char kSystemdsSocket[] = "the socket is ListenStream= of [Socket]";
constexpr char kNoMeaning[] = "it changes nothing";
constexpr char kSystemdsService[] = "systemd knows the process by itself";

// One table, which is why this file has more than 500 lines.
constexpr OptionRow kTable[] = {
    {.letter = 'r',
     .name = "readonly",
     .alias = "read-only",
     .help = "export read-only",
     .key = "ReadOnly",
     .key_kind = KeyKind::kBoolean,
     .set = Flag<&Options::export_settings, &ExportSettings::read_only>},
    {.letter = 'e',
     .name = "exportname",
     .alias = "export-name",  // nbdkit accepts both
     .argument = "=NAME",
     .help = "the export's name; without it, any name is valid",
     .key = "ExportName",
     .set = NbdString<&Options::export_name>},
    {.name = "description",
     .argument = "=TEXT",
     .help = "a description for clients that list exports",
     .excludes = {"directory"},  // each of its exports has its own
     .key = "Description",
     .set = NbdString<&Options::description>},
    {.name = "directory",
     .argument = "=DIR",
     .help = "each file in DIR is an export under its own name;\n"
             "with -e, NAME is the default export",
     .excludes = {"FILE"},
     .key = "Directory",
     .key_kind = KeyKind::kPath,
     .set = Text<&Options::directory>},
    {.name = "offset",
     .argument = "=BYTES",
     .help = "serve FILE from this byte on",
     .excludes = {"directory"},
     .key = "Offset",
     .set = SetOffset},
    {.name = "length",
     .argument = "=BYTES",
     .help = "serve so much of FILE",
     .excludes = {"directory"},
     .key = "Length",
     .set = SetLength},
    {.name = "partition",
     .argument = "=N|LABEL|UUID",
     .help = "serve this partition of FILE (GPT or MBR)",
     .excludes = {"directory", "offset", "length"},
     .key = "Partition",
     .set = SetPartition},
    {.name = "partitions",
     .help = "with --directory: FILE:N is partition N of FILE",
     .excludes = {"FILE"},
     .key = "Partitions",
     .key_kind = KeyKind::kBoolean,
     .set = Flag<&Options::partitions>},
    {.name = "size",
     .argument = "=BYTES",
     .help = "the size of an export: less cuts it, more adds\n"
             "zeroes; up:BYTES and down:BYTES make it a multiple",
     .key = "Size",
     .set = SetSize},
    {.name = "cache",
     .argument = "=MODE",
     .help = "the use of the page cache: writeback (the default),\n"
             "writethrough, drop, none (or direct), directsync",
     .key = "Cache",
     .set = SetCache},
    {.name = "cow",
     .argument = "[=MODE]",
     .implied_argument = "discard",
     .help = "each client writes into a private copy; MODE for it\n"
             "when the connection ends: discard (the default),\n"
             "or keep, for when the client comes back",
     .excludes = {"readonly"},
     .key = "Cow",
     .key_kind = KeyKind::kWord,
     .set = SetCow},
    {.name = "cow-dir",
     .argument = "=DIR",
     .help = "the directory of the copies, or memory; by default\n"
             "$STATE_DIRECTORY, $RUNTIME_DIRECTORY or /var/tmp",
     .key = "CowDir",
     .set = SetCowDir},
    {.name = "cow-size",
     .argument = "=BYTES",
     .help = "what a copy may occupy; then writes fail (ENOSPC)",
     .key = "CowSize",
     .set = SetCowSize},
    {.name = "cow-key",
     .argument = "=KEY",
     .help = "how a client of --cow=keep is known: tls (the\n"
             "default) or peer-address",
     .key = "CowKey",
     .key_kind = KeyKind::kWord,
     .set = SetCowKey},
    {.name = "cow-stale",
     .argument = "=ACTION",
     .help = "for a kept copy whose FILE has changed: refuse (the\n"
             "default) or discard",
     .key = "CowStale",
     .key_kind = KeyKind::kWord,
     .set = SetCowStale},
    {.name = "exclusive",
     .argument = "[=MODE]",
     .implied_argument = "refuse",
     .help = "one client at a time on an export; MODE for others:\n"
             "refuse (the default), wait or takeover",
     .key = "Exclusive",
     .key_kind = KeyKind::kWord,
     .set = SetExclusive},
    {.name = "force-share",
     .help = "serve for writing also what a virtual machine uses",
     .key = "ForceShare",
     .key_kind = KeyKind::kBoolean,
     .set = Flag<&Options::force_share>},
    {.name = "block-size",
     .argument = "=MIN:PREFERRED:MAX",
     .help = "sizes of requests: MIN (up to 64K) is\n"
             "their alignment, MAX the longest read or write",
     .key = "BlockSize",
     .set = SetBlockSize},
    {.name = "multi-conn",
     .argument = "=MODE",
     .help = "whether a client may open several connections: auto\n"
             "(the default: where each sees the others' writes),\n"
             "on or off",
     .key = "MultiConn",
     .key_kind = KeyKind::kWord,
     .set = SetMultiConn},
    {.name = "sandbox",
     .argument = "=MODE",
     .help = "the sandbox that a connection's process enters\n"
             "before its client's first byte: on (the default, as\n"
             "far as the kernel supports it), off, or require\n"
             "(refuses the client if it is incomplete)",
     .key = "Sandbox",
     .set = SetSandbox},
    {.name = "log",
     .argument = "=DESTINATION",
     .help = "stderr, syslog, journal, null or /PATH",
     .no_key = "the messages of a unit go to the journal",
     .set = SetLog},
    {.letter = 'v',
     .name = "verbose",
     .help = "debug messages on standard error",
     .key = "Verbose",
     .key_kind = KeyKind::kBoolean,
     .set = Flag<&Options::verbose>},
    {.name = "check",
     .argument = "[=FORMAT]",
     .implied_argument = "text",
     .help = "open FILE or DIR, say what would be served, exit;\n"
             "FORMAT: text (the default) or json",
     .no_key = "it serves nothing",
     .set = SetCheck},
    {.name = "as",
     .argument = "=WHO",
     .help = "with --check: what this client would get; may be\n"
             "given again, for an address and a TLS identity",
     .no_key = "it serves nothing",
     .set = AddAsked},
    {.letter = 'V',
     .name = "version",
     .help = "print the version and exit",
     .no_key = "it serves nothing",
     .set = Flag<&Options::version>},
    {.name = "help",
     .help = "print this help and exit",
     .no_key = "it serves nothing",
     .set = Flag<&Options::help>},

    {.section = kClient,
     .letter = 's',
     .name = "single",
     .alias = "stdin",
     .help = "serve standard input and output, then exit",
     .no_key = kSystemdsSocket,
     .set = Flag<&Options::activation, &ActivationOptions::single>},
    {.section = kClient,
     .name = "negotiated",
     .argument = "=STYLE",
     .help = "another program has negotiated on the connection,\n"
             "and transmission begins; STYLE of replies: simple,\n"
             "structured or extended[,base:allocation]",
     .no_key = "systemd accepts connections, and negotiates on none",
     .set = SetNegotiated},

    {.section = kListening,
     .letter = 'p',
     .name = "port",
     .argument = "=PORT",
     .help = "TCP port, 10809 by default",
     .opens_socket = true,
     .no_key = kSystemdsSocket,
     .set = SetPort},
    {.section = kListening,
     .letter = 'i',
     .name = "ipaddr",
     .alias = "ip-addr",
     .argument = "=IP",
     .help = "only on this address, not on all",
     .opens_socket = true,
     .no_key = kSystemdsSocket,
     .set = Text<&Options::listen, &ListenAddress::ip_address>},
    {.section = kListening,
     .letter = '4',
     .name = "ipv4-only",
     .help = "only on IPv4",
     .opens_socket = true,
     .excludes = {"unix", "vsock"},
     .no_key = kSystemdsSocket,
     .set = SetFamily<AF_INET>},
    {.section = kListening,
     .letter = '6',
     .name = "ipv6-only",
     .help = "only on IPv6; of -4 and -6, the last one holds",
     .opens_socket = true,
     .excludes = {"unix", "vsock"},
     .no_key = kSystemdsSocket,
     .set = SetFamily<AF_INET6>},
    {.section = kListening,
     .letter = 'U',
     .name = "unix",
     .argument = "=PATH",
     .help = "on a Unix socket; - makes a private one",
     .opens_socket = true,
     .excludes = {"vsock", "port", "ipaddr"},
     .no_key = kSystemdsSocket,
     .set = Text<&Options::listen, &ListenAddress::unix_path>},
    {.section = kListening,
     .name = "vsock",
     .help = "on vsock",
     .opens_socket = true,
     .excludes = {"ipaddr"},
     .no_key = kSystemdsSocket,
     .set = Flag<&Options::listen, &ListenAddress::vsock>},
    {.section = kListening,
     .letter = 'f',
     .name = "foreground",
     .alias = "no-fork",
     .help = "do not fork into the background",
     .no_key = kSystemdsService,
     .set = Flag<&Options::activation, &ActivationOptions::foreground>},
    {.section = kListening,
     .name = "run",
     .argument = "=COMMAND",
     .help = "listen, run COMMAND, and exit with its status",
     .opens_socket = true,
     .no_key = kSystemdsSocket,
     .set = Text<&Options::run>},
    {.section = kListening,
     .name = "print-uri",
     .help = "print the NBD URI on standard output",
     .excludes = {"single"},
     .no_key = kSystemdsSocket,
     .set = Flag<&Options::print_uri>},
    {.section = kListening,
     .name = "exit-with-parent",
     .help = "in the foreground, until the parent process ends",
     .no_key = kSystemdsService,
     .set = SetParent},
    {.section = kListening,
     .letter = 'P',
     .name = "pidfile",
     .alias = "pid-file",
     .argument = "=PATH",
     .help = "write the process id to PATH",
     .no_key = kSystemdsService,
     .set = Text<&Options::pidfile>},
    {.section = kListening,
     .letter = 'u',
     .name = "user",
     .argument = "=USER",
     .help = "change to this user after the sockets are open",
     .no_key = "User= is a setting of the service",
     .set = Text<&Options::user>},
    {.section = kListening,
     .letter = 'g',
     .name = "group",
     .argument = "=GROUP",
     .help = "and to this group",
     .no_key = "Group= is a setting of the service",
     .set = Text<&Options::group>},
    {.section = kListening,
     .name = "max-connections",
     .argument = "=N",
     .help = "at most N connections at once",
     .key = "MaxConnections",
     .set = SetMaxConnections},
    {.section = kListening,
     .name = "exit-idle",
     .argument = "=TIME",
     .help = "activated by systemd: exit when nobody has been\n"
             "connected for so long",
     .key = "IdleExit",
     .set = Time<&Options::exit_idle>},

    {.section = kTls,
     .name = "tls",
     .argument = "=off|on|require",
     .help = "whether clients may, or must, use it; off unless\n"
             "another of these options is given, then on",
     .key = "TLS",
     .set = SetTls},
    {.section = kTls,
     .name = "tls-certificates",
     .argument = "=DIR",
     .help = "ca-cert.pem, server-cert.pem, server-key.pem and\n"
             "perhaps ca-crl.pem",
     .key = "TLSCertificates",
     .key_kind = KeyKind::kPath,
     .set = Text<&Options::tls, &TlsSettings::certificates>},
    {.section = kTls,
     .name = "tls-psk",
     .argument = "=FILE",
     .help = "pre-shared keys instead: lines of user:hexkey",
     .key = "TLSPreSharedKeys",
     .key_kind = KeyKind::kPath,
     .set = Text<&Options::tls, &TlsSettings::psk_file>},
    {.section = kTls,
     .name = "tls-verify-peer",
     .help = "clients need a certificate of ca-cert.pem's",
     .key = "TLSVerifyPeer",
     .key_kind = KeyKind::kBoolean,
     .set = Flag<&Options::tls, &TlsSettings::verify_peer>},
    {.section = kTls,
     .name = "tls-allow",
     .argument = "=PATTERN",
     .help = "only clients whose certificate's subject, or PSK\n"
             "user, matches; may be given again",
     .key = "TLSAllow",
     .key_kind = KeyKind::kList,
     .set = AddTlsPattern},

    {.section = kAccess,
     .name = "allow",
     .argument = "=WHO",
     .help = "and nobody else of the same family",
     .key = "Allow",
     .key_kind = KeyKind::kList,
     .set = AddRule<AccessRules::Action::kAllow>},
    {.section = kAccess,
     .name = "deny",
     .argument = "=WHO",
     .help = "not this one",
     .key = "Deny",
     .key_kind = KeyKind::kList,
     .set = AddRule<AccessRules::Action::kDeny>},
    {.section = kAccess,
     .name = "rules",
     .argument = "=FILE",
     .help = "who may use which export, and how: lines of\n"
             "WHO EXPORT... ro|rw|cow",
     .key = "Rules",
     .key_kind = KeyKind::kPath,
     .set = Text<&Options::rules>},

    {.section = kLimits,
     .name = "handshake-timeout",
     .argument = "=TIME",
     .help = "from accept to the end of negotiation, 10s",
     .key = "HandshakeTimeout",
     .set = Time<&Options::timeouts, &Timeouts::handshake>},
    {.section = kLimits,
     .name = "stall-timeout",
     .argument = "=TIME",
     .help = "no progress inside a message, 60s",
     .key = "StallTimeout",
     .set = Time<&Options::timeouts, &Timeouts::stall>},
    {.section = kLimits,
     .name = "idle-timeout",
     .argument = "=TIME",
     .help = "no request, off",
     .key = "IdleTimeout",
     .set = Time<&Options::timeouts, &Timeouts::idle>},
    {.section = kLimits,
     .name = "keepalive",
     .argument = "=TIME",
     .help = "TCP: silent, and no answer of its machine, 2min",
     .key = "KeepAlive",
     .set = Time<&Options::timeouts, &Timeouts::keepalive>},
    {.section = kLimits,
     .name = "max-rate",
     .argument = "=BYTES[:BURST]",
     .help = "bytes of a connection in a second; if given\n"
             "twice, of its reads, and of its writes",
     .key = "MaxRate",
     .key_kind = KeyKind::kList,
     .set = AddRateLimit<&TransferLimits::bytes>},
    {.section = kLimits,
     .name = "max-iops",
     .argument = "=NUMBER[:BURST]",
     .help = "requests, likewise",
     .key = "MaxIOPS",
     .key_kind = KeyKind::kList,
     .set = AddRateLimit<&TransferLimits::requests>},

    {.section = kNoEffect,
     .letter = 'n',
     .name = "newstyle",
     .alias = "new-style",
     .help = "nbdinetd has no other handshake",
     .no_key = kNoMeaning,
     .set = Ignore},
    {.section = kNoEffect,
     .letter = 't',
     .name = "threads",
     .argument = "=N",
     .help = "each connection starts the threads that it needs",
     .no_key = kNoMeaning,
     .set = SetThreads},
};

}  // namespace

absl::Span<const OptionRow> OptionTable() { return kTable; }

}  // namespace nbdinetd
