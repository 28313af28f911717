// The identity and the name of a socket's peer. Threads: any.
#ifndef NBDINETD_SERVER_PEER_H_
#define NBDINETD_SERVER_PEER_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace nbdinetd {

// The identity of a peer, as the kernel reports it. An IPv4-mapped IPv6 address
// becomes an IPv4 address.
struct PeerIdentity {
  enum class Family { kUnknown, kIpv4, kIpv6, kUnix, kVsock };
  Family family = Family::kUnknown;
  // IPv4: the first four bytes.
  std::array<uint8_t, 16> address = {};
  // Unix: the user and groups of the connecting process when it connected.
  uint32_t uid = 0;
  std::vector<uint32_t> gids;  // the primary group first
  uint32_t cid = 0;            // vsock
};

enum class PeerGroups { kPrimary, kAll };

// kUnknown for a pipe or another kind of socket, for a peer that is gone, and
// when the kernel doesn't report the groups wanted. Makes no system call for
// supplementary groups with kPrimary.
PeerIdentity IdentifyPeer(int fd, PeerGroups groups);

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
