#include "base/log.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/libsystemd.h"

namespace nbdinetd {
namespace {

constexpr char kIdentifier[] = "nbdinetd";

// systemd sets JOURNAL_STREAM=DEVICE:INODE for the stream that it gave to a
// service; it is inherited by processes whose standard error is another one.
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

// sd_journal_sendv() reports success when there is no journal at all. Loads the
// library now: later, this process may not be allowed to open one.
bool JournalIsReachable() {
  return access("/run/systemd/journal/socket", W_OK) == 0 &&
         LibSystemd::Get() != nullptr;
}

iovec Iovec(const std::string& text) {
  return {const_cast<char*>(text.data()), text.size()};
}

}  // namespace

Log::Log(const Config& config) : verbose_(config.verbose) {
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
  } else if (config.destination == LogDestination::kJournal ||
             config.standard_error_is_peer ||
             (journal_stream && !config.destination.has_value())) {
    // Where the journal can't be reached, standard error is next, or else
    // syslog.
    if (JournalIsReachable()) {
      sink_ = Sink::kJournal;
    } else if (config.standard_error_is_peer) {
      sink_ = Sink::kSyslog;
    }
  }
  debug_sink_ = standard_error;
  if (verbose_ && config.standard_error_is_peer && JournalIsReachable()) {
    debug_sink_ = Sink::kJournal;
  }
}

void Log::SetField(absl::string_view name, absl::string_view value) {
  fields_.emplace_back(name, value);
}

void Log::Write(Priority priority, absl::string_view message,
                absl::Span<const LogField> extra) const {
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
          sink == Sink::kPlainStderr
              ? absl::StrCat(kIdentifier, ": ", message, "\n")
              : absl::StrCat("<", level, ">", message, "\n");
      // A pipe whose reader has stopped must not stop us: the line is lost.
      pollfd ready = {STDERR_FILENO, POLLOUT, 0};
      if (poll(&ready, 1, 0) == 0) return;
      // One write, so that lines of several processes don't mix.
      [[maybe_unused]] const ssize_t n =
          write(STDERR_FILENO, line.data(), line.size());
      return;
    }
    case Sink::kSyslog:
      openlog(kIdentifier, LOG_PID, LOG_DAEMON);
      syslog(level, "%.*s", static_cast<int>(message.size()), message.data());
      return;
    case Sink::kJournal: {
      std::vector<std::string> assignments = {
          absl::StrCat("MESSAGE=", message), absl::StrCat("PRIORITY=", level),
          absl::StrCat("SYSLOG_IDENTIFIER=", kIdentifier)};
      for (const LogField& field : fields_) {
        assignments.push_back(absl::StrCat(field.first, "=", field.second));
      }
      for (const LogField& field : extra) {
        assignments.push_back(absl::StrCat(field.first, "=", field.second));
      }
      std::vector<iovec> iov;
      for (const std::string& assignment : assignments) {
        iov.push_back(Iovec(assignment));
      }
      LibSystemd::Get()->journal_sendv(iov.data(), static_cast<int>(iov.size()));
      return;
    }
  }
}

}  // namespace nbdinetd
