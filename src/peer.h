// Who is at the other end of a socket.
#ifndef NBDINETD_PEER_H_
#define NBDINETD_PEER_H_

#include <string>

namespace nbdinetd {

// The name of the socket's peer for messages: "127.0.0.1:40000",
// "[::1]:40000", "unix:pid=1,uid=0,gid=0", "vsock:3:40000". When the socket
// has none any more, what the superserver said of it, or "unknown peer".
std::string PeerName(int fd);

// What a superserver says of the peer in REMOTE_ADDR (or REMOTE_HOST) and
// REMOTE_PORT; empty when it says nothing.
std::string PeerFromEnvironment();

}  // namespace nbdinetd

#endif  // NBDINETD_PEER_H_
