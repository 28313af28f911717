// The listening sockets of stand-alone mode.
//
// The name of a Unix socket outlives its process, and another program may
// replace it. A process therefore examines, replaces or removes a name only
// while it holds a lock file beside it, which exists only during that step; and
// it removes a name only if that still leads to the socket it has bound. If
// several servers start on one path at the same time, one succeeds.
#ifndef NBDINETD_SERVER_BIND_H_
#define NBDINETD_SERVER_BIND_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace nbdinetd {

inline constexpr uint32_t kNbdPort = 10809;  // registered with IANA

// The address from the options; if empty, TCP port 10809 on all addresses.
struct ListenAddress {
  uint32_t port = 0;  // 0: kNbdPort
  std::string ip_address;
  std::string unix_path;  // "-": in a new private folder
  bool vsock = false;
  int family = 0;  // AF_INET or AF_INET6: TCP only on this one; 0: on both
};

struct BoundSockets {
  std::vector<UniqueFd> listeners;
  std::string where;  // for messages: "TCP port 10809"
  // The Unix socket's path, absolute; empty for other families.
  std::string unix_path;
  // The file that unix_path led to after bind(2).
  dev_t device = 0;
  ino_t inode = 0;
  // The folder that was made for the socket; else empty.
  std::string private_folder;

  // Calls listen(2) on all of them. AlreadyExists as for Bind().
  absl::Status Listen() const;
  // Changes the owner of the Unix socket and of private_folder, but not of a
  // file of another type in their place. Errors are ignored.
  void GiveTo(uid_t uid, gid_t gid) const;
  // Removes the Unix socket, if the path still leads to it, and private_folder.
  // Only the listening process calls it, before it closes the socket; forked
  // processes don't. Errors are ignored.
  void RemoveUnixSocket() const;
};

// Opens sockets and binds them. TCP gets a socket for each address family of
// the machine. AlreadyExists names the address and the reason. An abandoned
// Unix socket, on which no process listens, is replaced.
//
// Clients can't connect before Listen(), except to a Unix socket: it listens at
// once, since a bound socket that doesn't listen looks abandoned. A client that
// connects early waits.
absl::StatusOr<BoundSockets> Bind(const ListenAddress& address);

// The NBD URI of the export for clients on this machine; with `require_tls`,
// clients must use TLS.
std::string UriOf(const ListenAddress& address, const std::string& unix_path,
                  const std::string& export_name, bool require_tls = false);

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_BIND_H_
