#include "cli/option_setters.h"

#include <unistd.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "base/block_sizes.h"
#include "base/byte_size.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/time_span.h"
#include "base/utf8.h"
#include "negotiation/agreement.h"
#include "protocol/option.h"
#include "protocol/reply.h"

namespace nbdinetd {
namespace {

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

template <typename Value>
using Words = absl::Span<const std::pair<absl::string_view, Value>>;

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

}  // namespace

absl::Status Complain(const GivenOption& given, absl::string_view complaint) {
  return absl::InvalidArgumentError(
      absl::StrCat(given.name, "=", Quoted(given.argument), ": ", complaint));
}

absl::Status Ignore(const GivenOption&, Options&) { return absl::OkStatus(); }

absl::Status CheckNbdString(const GivenOption& given) {
  if (given.argument.size() <= kMaxStringBytes && IsValidUtf8(given.argument)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(given.name, ": NBD wants valid UTF-8 of no more than ",
                   kMaxStringBytes, " bytes"));
}

absl::Status SetTime(const GivenOption& given, absl::Duration& time) {
  const std::optional<absl::Duration> parsed = ParseTimeSpan(given.argument);
  if (!parsed.has_value()) {
    return Complain(given,
                    "this is no time; use a number with a unit, such as 30s, "
                    "2min or 1h 30min, or 0 for no limit");
  }
  time = *parsed;
  return absl::OkStatus();
}

absl::Status SetText(const GivenOption& given, std::string& text) {
  text = std::string(given.argument);
  if (!text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(given.name, " is empty; is a variable unset?"));
}

absl::Status SetPort(const GivenOption& given, Options& options) {
  return SetNumber(given, "a port is a number from 1 to 65535",
                   options.listen.port);
}

absl::Status SetMaxConnections(const GivenOption& given, Options& options) {
  return SetNumber(given, "a number from 1 on is needed",
                   options.max_connections);
}

absl::Status SetThreads(const GivenOption& given, Options&) {
  uint32_t ignored = 0;
  return SetNumber(given, "a number from 1 on is needed", ignored);
}

absl::Status SetParent(const GivenOption&, Options& options) {
  options.parent = getppid();
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

absl::Status SetCache(const GivenOption& given, Options& options) {
  return SetWord<std::optional<CacheMode>>(
      given,
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

absl::Status SetShared(const GivenOption& given, Options& options) {
  return SetWord<std::optional<bool>>(
      given, {{"auto", std::nullopt}, {"yes", true}, {"no", false}},
      "use auto, yes or no", options.export_settings.shared);
}

absl::Status SetExclusiveScope(const GivenOption& given, Options& options) {
  return SetWord<ExclusiveScope>(
      given,
      {{"host", ExclusiveScope::kHost}, {"cluster", ExclusiveScope::kCluster}},
      "use host or cluster", options.exclusive_scope);
}

absl::Status SetExclusive(const GivenOption& given, Options& options) {
  // Without the option, it is off.
  const Words<Exclusive> words = absl::MakeSpan(kExclusiveWords).subspan(1);
  return SetWord<Exclusive>(given, words, "use refuse, wait or takeover",
                            options.exclusive);
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

absl::Status AddAsked(const GivenOption& given, Options& options) {
  const absl::Status status = options.asked.Add(given.argument);
  return status.ok() ? status : Complain(given, status.message());
}

}  // namespace nbdinetd
