// How the process comes by its sockets and files: socket activation, or
// standard input, or else by itself, where that is asked for.
//
// Invariant: afterwards descriptors 0, 1 and 2 are open, and none of them is
// the client's, so that nothing (a library's last words, either) can write
// into the client's stream. Threads: call it once, before there are any.
#ifndef NBDINETD_SERVER_ACTIVATION_H_
#define NBDINETD_SERVER_ACTIVATION_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/connection.h"
#include "base/connection_fd.h"
#include "base/unique_fd.h"

namespace nbdinetd {

// A regular file or block device that was handed over (systemd's OpenFile=).
struct NamedFile {
  UniqueFd fd;
  std::string name;  // from LISTEN_FDNAMES
};

struct Inherited {
  // There is a connection, or there are listeners, never both; or neither, when
  // stand-alone is asked for: the process is to listen by itself.
  std::optional<Connection> connection;
  std::vector<UniqueFd> listeners;
  std::vector<NamedFile> files;
  // Connections beside the first, which are an error, and only ended.
  std::vector<ConnectionFd> surplus;
  // The sockets came by socket activation.
  bool activated = false;
  // Standard error was the client's own; it is /dev/null now.
  bool standard_error_is_peer = false;
  // InvalidArgument: what was inherited can't be served, or doesn't go with the
  // options, and it says which descriptor is what; or there is nothing to
  // serve, and it says where that was looked for, what is there, and what to
  // do.
  absl::Status status;
};

struct ActivationOptions {
  bool single = false;  // --single
  // The first option that asks for a socket of our own ("--port"); empty when
  // there is none.
  std::string own_socket;
  bool foreground = false;  // --foreground, which asks for stand-alone, too
};

// Takes over what LISTEN_FDS hands to this process, or else standard input if
// that is a connected socket and nothing asks for stand-alone, or, with
// `single`, a pipe. Stand-alone is asked for by an option, or by a terminal as
// standard input. The variables of the socket activation protocol are unset,
// everything taken is close-on-exec, and sockets that LISTEN_FDS hands to
// another process are closed.
Inherited TakeInherited(const ActivationOptions& options);

// Closes what the process has inherited, and nobody has asked for: every
// descriptor but 0, 1, 2, those in `inherited`, and those that one of `paths`
// names (/dev/fd/N). To be called before anything else is opened.
void CloseOtherDescriptors(const Inherited& inherited,
                           absl::Span<const std::string> paths);

// Makes descriptors 0 and 1 /dev/null: for the process of a connection, which
// needs neither, and mustn't be able to use what it was started with.
void DetachStandardInputAndOutput();

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_ACTIVATION_H_
