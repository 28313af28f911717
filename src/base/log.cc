#include "base/log.h"

#include <endian.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/limits.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

constexpr char kIdentifier[] = "nbdinetd";

// systemd sets JOURNAL_STREAM=DEVICE:INODE for the stream that it gives to a
// service. Processes with another standard error inherit the variable, so the
// numbers are compared.
bool StandardErrorIsJournal() {
  const char* stream = getenv("JOURNAL_STREAM");
  if (stream == nullptr) return false;
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(stream, absl::MaxSplits(':', 1));
  uint64_t device = 0, inode = 0;
  struct stat st;
  return absl::SimpleAtoi(parts.first, &device) &&
         absl::SimpleAtoi(parts.second, &inode) &&
         fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device &&
         st.st_ino == inode;
}

// Cuts a line to PIPE_BUF bytes, which a pipe takes at once when poll() reports
// it as writable. A longer write would wait, and lines of several processes
// would mix (pipe(7), "PIPE_BUF"). The name of an export, which a client
// chooses, can make a line long.
std::string CutLine(std::string line) {
  constexpr char kRestIsCut[] = "...";
  constexpr size_t kMaxBytes = PIPE_BUF - 1;
  if (line.size() > kMaxBytes) {
    line.resize(kMaxBytes - (sizeof(kRestIsCut) - 1));
    line += kRestIsCut;
  }
  return line;
}

// The local time in a format of strftime(3). At most 31 bytes.
std::string LocalTime(const char* format) {
  const time_t now = time(nullptr);
  // localtime() would read the time zone again.
  tm local = {};
  localtime_r(&now, &local);
  char stamp[32];
  return std::string(stamp, strftime(stamp, sizeof(stamp), format, &local));
}

constexpr char kSyslogSocket[] = "/dev/log";
constexpr char kJournalSocket[] = "/run/systemd/journal/socket";

// Appends "FIELD=value" and a newline. For a value with newlines, its length
// precedes it ("Native Journal Protocol", "Serialization").
void AppendField(absl::string_view name, absl::string_view value,
                 std::string* datagram) {
  if (!absl::StrContains(value, '\n')) {
    absl::StrAppend(datagram, name, "=", value, "\n");
    return;
  }
  const uint64_t length = htole64(value.size());
  absl::StrAppend(
      datagram, name, "\n",
      absl::string_view(reinterpret_cast<const char*>(&length), sizeof(length)),
      value, "\n");
}

}  // namespace

Log::Log(Config config)
    : file_(std::move(config.file)), verbose_(config.verbose) {
  const bool journal_stream =
      !config.standard_error_is_peer && StandardErrorIsJournal();
  const Sink standard_error = config.standard_error_is_peer ? Sink::kNothing
                              : journal_stream ? Sink::kPrefixedStderr
                                               : Sink::kPlainStderr;
  sink_ = standard_error;
  if (config.destination == LogDestination::kNull) {
    sink_ = Sink::kNothing;
  } else if (config.destination == LogDestination::kSyslog) {
    sink_ = Sink::kSyslog;
  } else if (file_.has_value()) {
    sink_ = Sink::kFile;
    tzset();  // see UseSyslog()
  } else if (config.destination == LogDestination::kJournal ||
             config.standard_error_is_peer ||
             (journal_stream && !config.destination.has_value())) {
    // Without a journal, messages go to standard error, or to syslog if
    // standard error is the peer's.
    if (ReachJournal()) {
      sink_ = Sink::kJournal;
    } else if (config.standard_error_is_peer) {
      sink_ = Sink::kSyslog;
    }
  }
  debug_sink_ = standard_error;
  if (verbose_ && config.standard_error_is_peer && ReachJournal()) {
    debug_sink_ = Sink::kJournal;
  }
  if (sink_ == Sink::kSyslog) UseSyslog();
}

Log::~Log() { journal_.AwaitReceived(SteadyNow() + kLastMessagePatience); }

bool Log::ReachJournal() {
  if (!journal_.valid()) journal_ = MessageSocket(kJournalSocket);
  return journal_.valid();
}

void Log::UseSyslog() {
  sink_ = Sink::kSyslog;
  // Connects, and reads the time zone for the time stamps, now: later, a
  // sandbox may forbid both.
  tzset();
  syslog_ =
      MessageSocket(kSyslogSocket, MessageSocket::Kind::kDatagramOrStream);
}

void Log::Renew() {
  if (journal_.valid()) journal_.Renew();
  if (sink_ == Sink::kSyslog) syslog_.Renew();
  if (file_.has_value()) file_->Follow();
  follows_file_ = false;
}

void Log::SetField(absl::string_view name, absl::string_view value) {
  fields_.emplace_back(name, value);
}

void Log::Write(Priority priority, absl::string_view message,
                absl::Span<const LogField> extra) const {
  WriteTo(sink_, priority, message, extra);
}

void Log::Write(Priority priority, MessageId id, absl::string_view message,
                std::vector<LogField> extra) const {
  extra.emplace_back("MESSAGE_ID", id.hex);
  WriteTo(sink_, priority, message, extra);
}

void Log::Debug(absl::string_view message) const {
  if (verbose_) WriteTo(debug_sink_, Priority::kDebug, message, {});
}

void Log::WriteTo(Sink sink, Priority priority, absl::string_view message,
                  absl::Span<const LogField> extra) const {
  const int level = static_cast<int>(priority);
  switch (sink) {
    case Sink::kNothing:
      return;
    case Sink::kPlainStderr:
    case Sink::kPrefixedStderr: {
      const std::string line =
          CutLine(sink == Sink::kPlainStderr
                      ? absl::StrCat(kIdentifier, ": ", message)
                      : absl::StrCat("<", level, ">", message)) +
          "\n";
      // A pipe whose reader has stopped must not block us: the line is dropped.
      pollfd ready = {STDERR_FILENO, POLLOUT, 0};
      if (poll(&ready, 1, 0) == 0) return;
      // A single write, so that lines of several processes don't mix.
      [[maybe_unused]] const ssize_t n =
          write(STDERR_FILENO, line.data(), line.size());
      return;
    }
    case Sink::kSyslog:
      WriteToSyslog(priority, message);
      return;
    case Sink::kFile:
      WriteToFile(message);
      return;
    case Sink::kJournal:
      WriteToJournal(priority, message, extra);
      return;
  }
}

void Log::WriteToFile(absl::string_view message) const {
  if (follows_file_) file_->Follow();
  file_->Append(CutLine(absl::StrCat(LocalTime("%F %T"), " ", kIdentifier, "[",
                                     getpid(), "]: ", message)) +
                "\n");
}

// Uses the format of syslog(3): RFC 3164 without a host name. syslog(3) itself
// isn't called, since it waits without limit for a daemon that doesn't read.
void Log::WriteToSyslog(Priority priority, absl::string_view message) const {
  syslog_.Send(absl::StrCat("<", LOG_DAEMON | static_cast<int>(priority), ">",
                            LocalTime("%b %e %T"), " ", kIdentifier, "[",
                            getpid(), "]: ", message));
}

void Log::WriteToJournal(Priority priority, absl::string_view message,
                         absl::Span<const LogField> extra) const {
  std::string datagram;
  AppendField("MESSAGE", message, &datagram);
  AppendField("PRIORITY", absl::StrCat(static_cast<int>(priority)), &datagram);
  AppendField("SYSLOG_IDENTIFIER", kIdentifier, &datagram);
  for (const LogField& field : fields_) {
    AppendField(field.first, field.second, &datagram);
  }
  for (const LogField& field : extra) {
    AppendField(field.first, field.second, &datagram);
  }
  journal_.Send(datagram);
}

}  // namespace nbdinetd
