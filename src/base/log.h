// Where messages go.
//
// Invariant: no message is ever written to the client's own socket or pipe;
// Log only learns of a standard error that is not the peer's. What it needs is
// opened by the constructor and UseSyslog(); later it is only tried to replace
// the socket of a daemon that is gone. A daemon that doesn't read, or a pipe's
// reader that doesn't, holds up nobody (see message_socket.h). Threads: the
// main thread only.
//
// Only main and connection (and whoever accepts connections) log above debug;
// everything below them returns what went wrong as a value.
#ifndef NBDINETD_BASE_LOG_H_
#define NBDINETD_BASE_LOG_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/message_socket.h"

namespace nbdinetd {

// The levels of syslog(3), with their numbers.
enum class Priority : int {
  kError = 3,
  kWarning = 4,
  kNotice = 5,
  kInfo = 6,
  kDebug = 7,
};

enum class LogDestination { kStandardError, kSyslog, kJournal, kNull };

// A journal field, such as {"NBD_EXPORT", "disk"}.
using LogField = std::pair<std::string, std::string>;

class Log {
 public:
  struct Config {
    // --log; without it the destination follows from what fd 2 is.
    std::optional<LogDestination> destination;
    bool verbose = false;
    // Standard error is where the client reads: nothing may go there.
    bool standard_error_is_peer = false;
  };

  explicit Log(const Config& config);

  // Writes one message. `extra` joins the fields set by SetField, and reaches
  // the journal only. A message that can't be delivered is lost silently:
  // there is nobody left to tell.
  void Write(Priority priority, absl::string_view message,
             absl::Span<const LogField> extra = {}) const;
  void Error(absl::string_view message) const {
    Write(Priority::kError, message);
  }

  // Debug messages go to standard error, never to syslog, and only with -v.
  void Debug(absl::string_view message) const;
  bool verbose() const { return verbose_; }

  // The process has gone into the background: it has no standard error.
  void UseSyslog();

  // For a process forked off: sockets of its own, which a fault of it can't
  // spoil for its parent, to the daemons that run now.
  void Renew();

  // Every later message carries this field.
  void SetField(absl::string_view name, absl::string_view value);

 private:
  enum class Sink {
    kNothing,
    kPlainStderr,     // a terminal, a file, a pipe
    kPrefixedStderr,  // the journal reading a stream: "<6>message"
    kJournal,         // the journal's native protocol, with fields
    kSyslog,
  };

  // Whether there is a journal to write to; connects to it the first time.
  bool ReachJournal();
  void WriteTo(Sink sink, Priority priority, absl::string_view message,
               absl::Span<const LogField> extra) const;
  void WriteToSyslog(Priority priority, absl::string_view message) const;
  void WriteToJournal(Priority priority, absl::string_view message,
                      absl::Span<const LogField> extra) const;

  mutable MessageSocket journal_;
  mutable MessageSocket syslog_;
  Sink sink_;
  Sink debug_sink_;
  bool verbose_;
  std::vector<LogField> fields_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LOG_H_
