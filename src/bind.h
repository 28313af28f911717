// Listening sockets of our own, for stand-alone use.
#ifndef NBDINETD_BIND_H_
#define NBDINETD_BIND_H_

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
  // The Unix socket's path, absolute; empty for other families.
  std::string unix_path;
  // The folder that was made for it, if one was.
  std::string private_folder;

  // Lets clients in. AlreadyExists as below.
  absl::Status Listen() const;
  // Gives the Unix socket, and a folder of ours, to who is to use it; but not
  // what somebody else may have put in their place. Failing is no harm.
  void GiveTo(uid_t uid, gid_t gid) const;
  // Removes the Unix socket from the file system, and its folder. For the
  // process that stops listening, not for those forked from it.
  void RemoveUnixSocket() const;
};

// Opens and binds; nobody can connect before Listen(). TCP gets a socket for each address family that the
// machine has. AlreadyExists says which address it was and why it failed. A
// Unix socket that nobody listens on any more is replaced.
absl::StatusOr<BoundSockets> Bind(const ListenAddress& address);

// The NBD URI under which a client on this machine reaches the export; with
// `require_tls` one that makes the client use TLS.
std::string UriOf(const ListenAddress& address, const std::string& unix_path,
                  const std::string& export_name, bool require_tls = false);

}  // namespace nbdinetd

#endif  // NBDINETD_BIND_H_
