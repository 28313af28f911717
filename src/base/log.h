// Writes messages to standard error, syslog, the journal or a file.
//
// Invariant: no message is written to the client's own socket or pipe; Log uses
// standard error only when it isn't the peer's. The constructor and UseSyslog()
// open the sockets; later, Log only reconnects to a daemon that has restarted.
// A daemon or pipe reader that doesn't read blocks the process for a limited
// time at most (see message_socket.h). Threads: the main thread only.
//
// cli, the connection, the listener and the loops of both phases log above
// debug; everything below them returns errors as values.
#ifndef NBDINETD_BASE_LOG_H_
#define NBDINETD_BASE_LOG_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/log_file.h"
#include "base/message_id.h"
#include "base/message_socket.h"

namespace nbdinetd {

// The levels and numbers of syslog(3).
enum class Priority : int {
  kError = 3,
  kWarning = 4,
  kNotice = 5,
  kInfo = 6,
  kDebug = 7,
};

enum class LogDestination { kStandardError, kSyslog, kJournal, kNull, kFile };

// A journal field, such as {"NBD_EXPORT", "disk"}.
using LogField = std::pair<std::string, std::string>;

class Log {
 public:
  struct Config {
    // --log; without it, the type of descriptor 2 decides.
    std::optional<LogDestination> destination;
    bool verbose = false;
    // The client reads from standard error: nothing may be written there.
    bool standard_error_is_peer = false;
    // The destination kFile.
    std::optional<LogFile> file = std::nullopt;
  };

  explicit Log(Config config);
  // Waits for journald to receive the messages, at most kLastMessagePatience:
  // it finds the unit of a process that has ended no more, and neither
  // "journalctl --unit" nor "nbdinetctl history" would show them.
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // Writes one message. `extra` is added to the fields of SetField(); fields
  // reach the journal only. A message that can't be delivered is dropped
  // silently, since no other destination is left.
  void Write(Priority priority, absl::string_view message,
             absl::Span<const LogField> extra = {}) const;
  // The same, with the kind of the message as its field MESSAGE_ID.
  void Write(Priority priority, MessageId id, absl::string_view message,
             std::vector<LogField> extra = {}) const;
  void Error(absl::string_view message) const {
    Write(Priority::kError, message);
  }

  // Writes to standard error, and only with -v. Where the client reads from
  // standard error, debug messages go to the journal, never to syslog.
  void Debug(absl::string_view message) const;
  bool verbose() const { return verbose_; }

  // Switches to syslog: for a process in the background, which has no standard
  // error.
  void UseSyslog();

  // For a process that may open files as long as it runs: before each message,
  // opens the log file anew if it was renamed.
  void FollowFile() { follows_file_ = true; }

  // For a forked process: opens sockets of its own to the current daemons, so
  // that it can't affect its parent's, and opens a renamed log file anew for
  // the last time.
  void Renew();

  // The descriptor of the log file; -1 without one.
  int file_fd() const { return file_.has_value() ? file_->fd() : -1; }

  // The descriptor of the socket to the journal; -1 without one.
  int journal_fd() const { return journal_.fd(); }

  // Adds a field to every later message.
  void SetField(absl::string_view name, absl::string_view value);

 private:
  enum class Sink {
    kNothing,
    kPlainStderr,     // a terminal, a file, a pipe
    kPrefixedStderr,  // the journal reads a stream: "<6>message"
    kJournal,         // the journal's native protocol, with fields
    kSyslog,
    kFile,  // "TIME nbdinetd[PID]: message"
  };

  // True if the journal can be reached; the first call connects to it.
  bool ReachJournal();
  void WriteTo(Sink sink, Priority priority, absl::string_view message,
               absl::Span<const LogField> extra) const;
  void WriteToFile(absl::string_view message) const;
  void WriteToSyslog(Priority priority, absl::string_view message) const;
  void WriteToJournal(Priority priority, absl::string_view message,
                      absl::Span<const LogField> extra) const;

  mutable MessageSocket journal_;
  mutable MessageSocket syslog_;
  mutable std::optional<LogFile> file_;
  bool follows_file_ = false;
  Sink sink_;
  Sink debug_sink_;
  bool verbose_;
  std::vector<LogField> fields_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LOG_H_
