// The exit statuses of nbdinetd (sysexits.h), and how an absl::Status maps to
// them. The manual's section EXIT STATUS lists the same values.
#ifndef NBDINETD_BASE_EXIT_STATUS_H_
#define NBDINETD_BASE_EXIT_STATUS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/message_id.h"

namespace nbdinetd {

enum class ExitStatus : int {
  kOk = 0,            // the connection ended as the protocol says; a probe
  kUsage = 64,        // wrong usage
  kNoInput = 66,      // the export's file can't be opened
  kUnavailable = 69,  // the export is in use
  kSystem = 71,       // a system call failed unexpectedly
  kCantCreate = 73,   // a pidfile, socket or private copy can't be made
  kTimedOut = 75,     // the peer timed out
  kProtocol = 76,     // the peer broke the protocol, or closed inside a message
  kRefused = 77,      // TLS or authorization refused the peer
  kConfig = 78,       // bad TLS files or configuration
};

// In the exit status of a process that our listener has forked, which nobody
// else sees: its client chose no export.
inline constexpr int kUnservedFlag = 0x80;

// The code of a set-up error determines the exit status: InvalidArgument is
// wrong usage, NotFound a missing export, AlreadyExists a pidfile, socket or
// private copy that can't be made, FailedPrecondition bad TLS files or
// configuration. Every other error is a system error.
inline ExitStatus ExitStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    // The process was told to end.
    case absl::StatusCode::kCancelled:
      return ExitStatus::kOk;
    case absl::StatusCode::kInvalidArgument:
      return ExitStatus::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitStatus::kNoInput;
    case absl::StatusCode::kAlreadyExists:
      return ExitStatus::kCantCreate;
    case absl::StatusCode::kFailedPrecondition:
      return ExitStatus::kConfig;
    default:
      return ExitStatus::kSystem;
  }
}

// The reason for the end of a connection: an exit status, and a phrase for the
// log ("client disconnected", "broke the protocol: ...").
struct Ending {
  ExitStatus status = ExitStatus::kOk;
  std::string reason;
  // The kind of the message about it; nullopt if the status says enough.
  std::optional<MessageId> message_id = std::nullopt;
  // The export that the client asked for, if it is unknown.
  std::optional<std::string> unknown_export = std::nullopt;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_EXIT_STATUS_H_
