// The identity and the name of a socket's peer. Threads: any.
#ifndef NBDINETD_SERVER_PEER_H_
#define NBDINETD_SERVER_PEER_H_

#include <string>

#include "access/peer_identity.h"

namespace nbdinetd {

enum class PeerGroups { kPrimary, kAll };
enum class PeerUnit { kUnwanted, kWanted };

// kUnknown for a pipe or another kind of socket, for a peer that is gone, and
// when the kernel doesn't report the groups wanted. Makes no system call for
// supplementary groups with kPrimary, and none for the unit with kUnwanted. A
// unit that is wanted and unknown makes no other part of the identity unknown.
PeerIdentity IdentifyPeer(int fd, PeerGroups groups,
                          PeerUnit unit = PeerUnit::kUnwanted);

// The name of the socket's peer for messages: "127.0.0.1:40000", "[::1]:40000",
// "unix:pid=1,uid=0,gid=0", "vsock:3:40000". Without a peer name from the
// kernel it is PeerFromEnvironment(), or "unknown peer".
std::string PeerName(int fd);

// The IP address of the socket's peer, without a port, as the kernel knows it:
// "127.0.0.1", "::1"; with a zone if it is only good on one link. Empty if the
// peer has none.
std::string PeerAddress(int fd);

// The peer's name from the superserver's variables REMOTE_ADDR (or REMOTE_HOST)
// and REMOTE_PORT; empty without them.
std::string PeerFromEnvironment();

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_PEER_H_
