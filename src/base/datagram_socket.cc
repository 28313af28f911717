#include "base/datagram_socket.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace nbdinetd {
namespace {

// A reader that has stopped must not stop us for longer.
constexpr timeval kSendTimeout = {1, 0};

}  // namespace

UniqueFd ConnectDatagramSocket(absl::string_view name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (name.size() < 2 || (name[0] != '/' && name[0] != '@') ||
      name.size() >= sizeof(address.sun_path)) {
    return UniqueFd();
  }
  std::memcpy(address.sun_path, name.data(), name.size());
  // An abstract name begins with a zero byte, and ends where the address does.
  size_t length = offsetof(sockaddr_un, sun_path) + name.size();
  if (name[0] == '@') {
    address.sun_path[0] = '\0';
  } else {
    ++length;
  }
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() ||
      connect(socket.get(), reinterpret_cast<const sockaddr*>(&address),
              static_cast<socklen_t>(length)) != 0) {
    return UniqueFd();
  }
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendTimeout,
             sizeof(kSendTimeout));
  return socket;
}

bool SendDatagram(int socket, absl::string_view datagram) {
  ssize_t n;
  do {
    n = send(socket, datagram.data(), datagram.size(), MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  return n >= 0;
}

}  // namespace nbdinetd
