#include "peer.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"

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

std::string IpPeer(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, &address, sizeof(in));
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(in.sin_port));
  }
  sockaddr_in6 in6;
  std::memcpy(&in6, &address, sizeof(in6));
  if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
    inet_ntop(AF_INET, &in6.sin6_addr.s6_addr[12], text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(in6.sin6_port));
  }
  inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(in6.sin6_port));
}

}  // namespace

// systemd, xinetd and others tell the peer in the environment; it is all there
// is when the socket has no name any more, or was never one.
std::string PeerFromEnvironment() {
  std::string host = Environment("REMOTE_ADDR");
  if (host.empty()) host = Environment("REMOTE_HOST");
  if (host.empty()) return "";
  // What the environment says may have come from anywhere.
  host = Quoted(host);
  host = host.substr(1, host.size() - 2);
  uint32_t port;
  if (!absl::SimpleAtoi(Environment("REMOTE_PORT"), &port)) return host;
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
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
