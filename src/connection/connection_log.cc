#include "connection/connection_log.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/amounts.h"
#include "base/errors.h"
#include "export/open.h"

namespace nbdinetd {
namespace {

// From here on, the last line names the longest request: people notice it.
constexpr absl::Duration kLongRequest = absl::Seconds(1);

const char* ModeOf(const Export& target) {
  const Export::Facts& facts = target.facts();
  return facts.read_only      ? "read-only"
         : facts.temporary    ? "copy-on-write"
         : facts.private_copy ? "kept copy-on-write"
                              : "read-write";
}

// For the log: ", TLS (TLSv1.3, ...) with "CN=alice"".
std::string TlsClause(const TlsPeer& tls) {
  return absl::StrCat(
      ", TLS (", tls.description, ")",
      tls.identity.empty() ? "" : absl::StrCat(" with ", Quoted(tls.identity)));
}

MessageId MessageIdOf(const Ending& ending) {
  if (ending.message_id.has_value()) return *ending.message_id;
  switch (ending.status) {
    case ExitStatus::kOk:
      return message_id::kEnded;
    case ExitStatus::kProtocol:
      return message_id::kBrokenProtocol;
    case ExitStatus::kTimedOut:
      return message_id::kTimedOut;
    case ExitStatus::kRefused:
      // --allow and --deny refuse a client before it gets here.
      return message_id::kTlsRefused;
    case ExitStatus::kUnavailable:
      return message_id::kRefused;
    case ExitStatus::kNoInput:
      return message_id::kNotOpened;
    default:
      return message_id::kStorageError;
  }
}

Priority PriorityOf(const Ending& ending) {
  switch (ending.status) {
    case ExitStatus::kOk:
      // The client didn't get what it asked for.
      return ending.message_id.has_value() ? Priority::kWarning
                                           : Priority::kInfo;
    case ExitStatus::kProtocol:
    case ExitStatus::kTimedOut:
    case ExitStatus::kRefused:
    case ExitStatus::kUnavailable:
      return Priority::kWarning;
    default:
      return Priority::kError;
  }
}

// A name from the client for the status, cut to kMaxStatusNameBytes. systemd
// takes no message of more than 4096 bytes, and Quoted() needs up to four for
// one of the name.
std::string QuotedForStatus(absl::string_view name) {
  constexpr size_t kMaxStatusNameBytes = 256;
  if (name.size() <= kMaxStatusNameBytes) return Quoted(name);
  size_t end = kMaxStatusNameBytes;
  const auto continues = [&](size_t at) { return (name[at] & 0xc0) == 0x80; };
  while (end > 0 && continues(end)) --end;
  return Quoted(absl::StrCat(name.substr(0, end), "..."));
}

// The fields of the last message of every connection.
std::vector<LogField> EndFields(const Ending& ending, absl::Duration duration) {
  std::vector<LogField> fields = {
      {"NBD_REASON", ending.reason},
      {"NBD_EXIT_STATUS", absl::StrCat(static_cast<int>(ending.status))},
      {"NBD_DURATION_USEC", absl::StrCat(absl::ToInt64Microseconds(duration))},
  };
  if (ending.unknown_export.has_value()) {
    fields.emplace_back("NBD_EXPORT", *ending.unknown_export);
  }
  return fields;
}

// "16:120 32:4000 inf:1": the bounds of the buckets, divided by `unit`, and how
// many values they have. Empty without any.
template <typename H>
std::string HistogramText(const H& histogram, uint64_t unit) {
  std::string text;
  histogram.ForEachBucket([&](std::optional<uint64_t> bound, uint64_t count) {
    absl::StrAppend(&text, text.empty() ? "" : " ",
                    bound ? absl::StrCat(*bound / unit) : "inf", ":", count);
  });
  return text;
}

// Two fields for each command of which there were requests.
void AddHistograms(const Statistics& statistics,
                   std::vector<LogField>* fields) {
  for (const Command command : kAllCommands) {
    const CommandStatistics& of_command = statistics.of(command);
    const std::string name =
        absl::StrCat("NBD_", absl::AsciiStrToUpper(NameOf(command)));
    const auto add = [&](const char* suffix, std::string text) {
      if (text.empty()) return;
      fields->emplace_back(absl::StrCat(name, suffix), std::move(text));
    };
    add("_LATENCY_USEC", HistogramText(of_command.latency, kNsecPerUsec));
    add("_SIZE_BYTES", HistogramText(of_command.size, 1));
  }
}

absl::string_view NameOf(ReplyStyle style) {
  switch (style) {
    case ReplyStyle::kSimple:
      return "simple";
    case ReplyStyle::kStructured:
      return "structured";
    case ReplyStyle::kExtended:
      break;
  }
  return "extended";
}

}  // namespace

void SetExportFields(Log& log, const Negotiated& negotiated) {
  log.SetField("NBD_EXPORT", negotiated.export_name);
  log.SetField("NBD_FILE", negotiated.target->path());
  log.SetField("NBD_MODE", ModeOf(*negotiated.target));
  if (!negotiated.rule.empty()) log.SetField("NBD_RULE", negotiated.rule);
}

void LogStart(const Log& log, const std::string& peer,
              const Negotiated& negotiated, const std::optional<TlsPeer>& tls) {
  const Export& target = *negotiated.target;
  if (!negotiated.read_only_reason.empty()) {
    log.Write(Priority::kNotice, message_id::kReadOnly,
              ReadOnlyNotice(target.path(), negotiated.read_only_reason),
              {{"NBD_REASON", negotiated.read_only_reason}});
  }
  log.Write(Priority::kInfo, message_id::kServing,
            absl::StrCat("serving export ", Quoted(negotiated.export_name),
                         " to ", peer, ": ", Quoted(target.path()), ", ",
                         ExactAmount(negotiated.promises.size_bytes), ", ",
                         ModeOf(target), ", ", NameOf(negotiated.style),
                         " replies", tls.has_value() ? TlsClause(*tls) : "",
                         negotiated.rule.empty()
                             ? ""
                             : absl::StrCat(", by ", Quoted(negotiated.rule))));
}

std::string ServingStatus(const std::string& peer, const Negotiated& negotiated,
                          const std::optional<TlsPeer>& tls) {
  return absl::StrCat("serving ", QuotedForStatus(negotiated.export_name),
                      " to ", peer,
                      tls.has_value() && !tls->identity.empty()
                          ? absl::StrCat(" as ", QuotedForStatus(tls->identity))
                          : "");
}

void LogEnd(const Log& log, const std::string& peer, const Ending& ending,
            const Statistics& statistics, absl::Duration duration) {
  std::vector<LogField> fields = EndFields(ending, duration);
  const absl::Duration longest = statistics.longest_request();
  const auto add = [&](const char* name, uint64_t number) {
    fields.emplace_back(name, absl::StrCat(number));
  };
  add("NBD_REQUESTS", statistics.requests);
  add("NBD_BYTES_READ", statistics.bytes_read);
  add("NBD_BYTES_WRITTEN", statistics.bytes_written);
  add("NBD_ERRORS", statistics.errors);
  add("NBD_LONGEST_REQUEST_USEC",
      static_cast<uint64_t>(absl::ToInt64Microseconds(longest)));
  AddHistograms(statistics, &fields);
  log.Write(PriorityOf(ending), MessageIdOf(ending),
            absl::StrCat(peer, " ended: ", ending.reason, "; ",
                         Counted(statistics.requests, "request"), ", ",
                         Amount(statistics.bytes_read), " read, ",
                         Amount(statistics.bytes_written), " written, ",
                         Counted(statistics.errors, "error"), ", in ",
                         RoughTime(duration),
                         longest < kLongRequest
                             ? ""
                             : absl::StrCat(", the longest request took ",
                                            RoughTime(longest))),
            std::move(fields));
  if (log.verbose()) {
    log.Debug(absl::StrCat(ExactAmount(statistics.bytes_read), " read, ",
                           ExactAmount(statistics.bytes_sent_by_sendfile),
                           " of them sent by sendfile"));
  }
}

void LogUnserved(const Log& log, const std::string& peer, const Ending& ending,
                 absl::Duration duration) {
  log.Write(PriorityOf(ending), MessageIdOf(ending),
            absl::StrCat(peer, " ended: ", ending.reason),
            EndFields(ending, duration));
}

}  // namespace nbdinetd
