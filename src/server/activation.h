// Finds the sockets and files of the process: from socket activation or
// standard input; or selects stand-alone mode.
//
// Invariant: afterwards descriptors 0, 1 and 2 are open, and none of them is a
// client's, so that no message, of a library for example, can get into a
// client's stream. Threads: call it once, before any thread starts.
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

// A regular file or block device that was handed over (OpenFile= of systemd).
struct NamedFile {
  UniqueFd fd;
  std::string name;  // from LISTEN_FDNAMES
};

struct Inherited {
  // Either a connection or listeners; neither in stand-alone mode, in which the
  // process binds its own sockets.
  std::optional<Connection> connection;
  std::vector<UniqueFd> listeners;
  std::vector<NamedFile> files;
  // Connections after the first one. They are an error, and are only closed.
  std::vector<ConnectionFd> surplus;
  // The sockets came by socket activation.
  bool activated = false;
  // Standard error was the client's socket; it is /dev/null now.
  bool standard_error_is_peer = false;
  // InvalidArgument: the descriptors can't be served or contradict the options,
  // and the message names them; or there is nothing to serve, and the message
  // names the places searched, their content, and a remedy.
  absl::Status status;
};

struct ActivationOptions {
  bool single = false;  // --single
  // The first option that opens a socket of our own ("--port"); else empty.
  std::string own_socket;
  bool foreground = false;  // --foreground, which selects stand-alone mode, too
};

// Takes over the descriptors of LISTEN_FDS. Without them it takes standard
// input, if that is a connected socket and stand-alone mode isn't selected, or
// a pipe with `single`. An option, or a terminal as standard input, selects
// stand-alone mode. Unsets the variables of the socket activation protocol,
// makes all descriptors taken close-on-exec, and closes sockets that LISTEN_FDS
// hands to another process.
Inherited TakeInherited(const ActivationOptions& options);

// Closes inherited descriptors that are not in use: all except 0, 1, 2, those
// in `inherited`, and those that `paths` name (/dev/fd/N). Call it before other
// descriptors are opened.
void CloseOtherDescriptors(const Inherited& inherited,
                           absl::Span<const std::string> paths);

// Makes descriptors 0 and 1 /dev/null. The process of a connection needs
// neither, and must not be able to use those of its parent.
void DetachStandardInputAndOutput();

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_ACTIVATION_H_
