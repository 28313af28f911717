// Who is at the other end of a socket.
#ifndef NBDINETD_SERVER_PEER_H_
#define NBDINETD_SERVER_PEER_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace nbdinetd {

// Who the peer is, as far as the kernel vouches for it. IPv4-mapped IPv6
// addresses are IPv4.
struct PeerIdentity {
  enum class Family { kUnknown, kIpv4, kIpv6, kUnix, kVsock };
  Family family = Family::kUnknown;
  // Of IPv4 the first four bytes.
  std::array<uint8_t, 16> address = {};
  // Of a Unix peer: those of the process that connected, at that time.
  uint32_t uid = 0;
  std::vector<uint32_t> gids;  // the primary group first
  uint32_t cid = 0;            // of vsock
};

enum class PeerGroups { kPrimary, kAll };

// kUnknown for what is no connected socket of these families: pipes, peers that
// are gone already, and those of whom the kernel doesn't tell all that is
// wanted. Makes no system call for the supplementary groups unless they are.
PeerIdentity IdentifyPeer(int fd, PeerGroups groups);

// The name of the socket's peer for messages: "127.0.0.1:40000",
// "[::1]:40000", "unix:pid=1,uid=0,gid=0", "vsock:3:40000". When the socket
// has none any more, what the superserver said of it, or "unknown peer".
std::string PeerName(int fd);

// What a superserver says of the peer in REMOTE_ADDR (or REMOTE_HOST) and
// REMOTE_PORT; empty when it says nothing.
std::string PeerFromEnvironment();

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_PEER_H_
