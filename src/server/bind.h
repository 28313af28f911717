// Listening sockets of our own, for stand-alone use.
//
// A Unix socket is a name in the file system that outlives its process, and
// that anybody may put something else under. So whoever looks at what is there,
// replaces it or removes it does that alone, under a lock file beside it, which
// is there for that moment only; and a name is removed only where it still
// leads to the socket that was bound. Of several servers that start together on
// one path, one succeeds.
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

// What the options say; with all of it empty, TCP port 10809 on every address.
struct ListenAddress {
  uint32_t port = 0;  // 0: kNbdPort
  std::string ip_address;
  std::string unix_path;  // "-": in a new folder of our own
  bool vsock = false;
};

struct BoundSockets {
  std::vector<UniqueFd> listeners;
  std::string where;  // for messages: "TCP port 10809"
  // The Unix socket's path, absolute; empty for other families.
  std::string unix_path;
  // What that leads to.
  dev_t device = 0;
  ino_t inode = 0;
  // The folder that was made for it, if one was.
  std::string private_folder;

  // Lets clients in, on those sockets that don't listen yet. AlreadyExists as
  // below.
  absl::Status Listen() const;
  // Gives the Unix socket, and a folder of ours, to who is to use it; but not
  // what somebody else may have put in their place. Failing is no harm.
  void GiveTo(uid_t uid, gid_t gid) const;
  // Removes the Unix socket from the file system, unless something else is in
  // its place, and its folder. For the process that stops listening, not for
  // those forked from it; and before the socket is closed. Failing is no harm.
  void RemoveUnixSocket() const;
};

// Opens and binds. TCP gets a socket for each address family that the machine
// has. AlreadyExists says which address it was and why it failed. A Unix socket
// that nobody listens on any more is replaced.
//
// Nobody can connect before Listen(), but to a Unix socket: one that is bound
// and doesn't listen looks like one that was left over. Who connects early
// waits.
absl::StatusOr<BoundSockets> Bind(const ListenAddress& address);

// The NBD URI under which a client on this machine reaches the export; with
// `require_tls` one that makes the client use TLS.
std::string UriOf(const ListenAddress& address, const std::string& unix_path,
                  const std::string& export_name, bool require_tls = false);

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_BIND_H_
