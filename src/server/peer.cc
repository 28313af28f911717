#include "server/peer.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "server/peer_unit.h"

namespace nbdinetd {
namespace {

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

std::string UnixPeer(int fd) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return "unix";
  }
  return absl::StrCat("unix:pid=", peer.pid, ",uid=", peer.uid,
                      ",gid=", peer.gid);
}

struct IpAddress {
  std::string host;
  uint16_t port = 0;
  uint32_t zone = 0;  // of an address that is only good on one link, or 0
};

IpAddress IpAddressOf(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, &address, sizeof(in));
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
    return {text, ntohs(in.sin_port)};
  }
  sockaddr_in6 in6;
  std::memcpy(&in6, &address, sizeof(in6));
  const bool is_mapped = IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr);
  if (is_mapped) {
    inet_ntop(AF_INET, &in6.sin6_addr.s6_addr[12], text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
  }
  return {text, ntohs(in6.sin6_port), is_mapped ? 0 : in6.sin6_scope_id};
}

std::string IpPeer(const sockaddr_storage& address) {
  const IpAddress ip = IpAddressOf(address);
  return absl::StrContains(ip.host, ':')
             ? absl::StrCat("[", ip.host, "]:", ip.port)
             : absl::StrCat(ip.host, ":", ip.port);
}

// Appends the supplementary groups of the peer when it connected. False when
// they are unknown; one of them might be denied.
bool AppendSupplementaryGroups(int fd, std::vector<uint32_t>* gids) {
  constexpr size_t kUsual = 32;
  std::vector<uint32_t> groups(kUsual);
  socklen_t length = kUsual * sizeof(uint32_t);
  int result =
      getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length);
  if (result != 0 && errno == ERANGE) {
    // `length` is now the size needed, for at most NGROUPS_MAX (65536) groups.
    groups.resize(length / sizeof(uint32_t));
    result = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length);
  }
  if (result != 0) return false;
  groups.resize(length / sizeof(uint32_t));
  gids->insert(gids->end(), groups.begin(), groups.end());
  return true;
}

PeerIdentity IdentifyUnixPeer(int fd, PeerGroups groups) {
  PeerIdentity identity;
  ucred peer = {};
  socklen_t length = sizeof(peer);
  // The kernel reports the user -1 when no peer has connected.
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
      peer.uid == static_cast<uid_t>(-1)) {
    return identity;
  }
  identity.uid = peer.uid;
  identity.gids.push_back(peer.gid);
  if (groups == PeerGroups::kPrimary ||
      AppendSupplementaryGroups(fd, &identity.gids)) {
    identity.family = PeerIdentity::Family::kUnix;
  }
  return identity;
}

void SetUnit(int fd, PeerIdentity* identity) {
  absl::StatusOr<std::string> unit = UnitOfPeer(fd);
  if (unit.ok()) {
    identity->unit = *std::move(unit);
  } else {
    identity->why_no_unit = std::string(unit.status().message());
  }
}

PeerIdentity IdentifyIpv6Peer(const sockaddr_in6& peer) {
  PeerIdentity identity;
  if (IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr)) {
    identity.family = PeerIdentity::Family::kIpv4;
    std::memcpy(identity.address.data(), &peer.sin6_addr.s6_addr[12], 4);
  } else {
    identity.family = PeerIdentity::Family::kIpv6;
    std::memcpy(identity.address.data(), &peer.sin6_addr, 16);
  }
  return identity;
}

}  // namespace

PeerIdentity IdentifyPeer(int fd, PeerGroups groups, PeerUnit unit) {
  PeerIdentity identity;
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return identity;
  }
  switch (address.ss_family) {
    case AF_UNIX:
      identity = IdentifyUnixPeer(fd, groups);
      if (unit == PeerUnit::kWanted) SetUnit(fd, &identity);
      return identity;
    case AF_INET: {
      sockaddr_in in;
      std::memcpy(&in, &address, sizeof(in));
      identity.family = PeerIdentity::Family::kIpv4;
      std::memcpy(identity.address.data(), &in.sin_addr, 4);
      return identity;
    }
    case AF_INET6: {
      sockaddr_in6 in6;
      std::memcpy(&in6, &address, sizeof(in6));
      return IdentifyIpv6Peer(in6);
    }
    case AF_VSOCK: {
      sockaddr_vm vm;
      std::memcpy(&vm, &address, sizeof(vm));
      identity.family = PeerIdentity::Family::kVsock;
      identity.cid = vm.svm_cid;
      return identity;
    }
    default:
      return identity;
  }
}

// systemd, xinetd and others pass the peer in the environment, the only source
// when the socket has no peer name any more, or is a pipe.
std::string PeerFromEnvironment() {
  std::string host = Environment("REMOTE_ADDR");
  if (host.empty()) host = Environment("REMOTE_HOST");
  if (host.empty()) return "";
  // The content of the environment isn't trusted.
  host = Quoted(host);
  host = host.substr(1, host.size() - 2);
  uint32_t port;
  if (!absl::SimpleAtoi(Environment("REMOTE_PORT"), &port)) return host;
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
}

std::string PeerAddress(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      (address.ss_family != AF_INET && address.ss_family != AF_INET6)) {
    return "";
  }
  const IpAddress ip = IpAddressOf(address);
  return ip.zone == 0 ? ip.host : absl::StrCat(ip.host, "%", ip.zone);
}

std::string PeerName(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    switch (address.ss_family) {
      case AF_UNIX:
        return UnixPeer(fd);
      case AF_INET:
      case AF_INET6:
        return IpPeer(address);
      case AF_VSOCK: {
        sockaddr_vm vm;
        std::memcpy(&vm, &address, sizeof(vm));
        return absl::StrCat("vsock:", vm.svm_cid, ":", vm.svm_port);
      }
    }
  }
  const std::string peer = PeerFromEnvironment();
  return peer.empty() ? "unknown peer" : peer;
}

}  // namespace nbdinetd
