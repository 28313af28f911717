// How the process comes by its client: socket activation, or standard input.
//
// Invariant: afterwards descriptors 0, 1 and 2 are open, and none of them is
// the client's, so that nothing (a library's last words, either) can write
// into the client's stream. Threads: call it once, before there are any.
#ifndef NBDINETD_ACTIVATION_H_
#define NBDINETD_ACTIVATION_H_

#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "base/unique_fd.h"

namespace nbdinetd {

// An accepted connection, whoever accepted it.
struct Connection {
  UniqueFd input;
  UniqueFd output;   // only for a pair of pipes; a socket is both
  std::string peer;  // who it is, for the log: "127.0.0.1:40000"
};

struct Inherited {
  // Nothing when the process was given no connection.
  absl::optional<Connection> connection;
  // Standard error was the client's own; it is /dev/null now.
  bool standard_error_is_peer = false;
  // InvalidArgument: what was inherited is not one connection; it says which
  // descriptor is what.
  absl::Status status;
};

// Takes over what LISTEN_FDS hands to this process, or else standard input if
// that is a connected socket, or, with `single`, a pipe. The variables of the
// socket activation protocol are unset, and everything taken is close-on-exec.
Inherited TakeInherited(bool single);

}  // namespace nbdinetd

#endif  // NBDINETD_ACTIVATION_H_
