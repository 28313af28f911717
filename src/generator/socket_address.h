// The addresses of ListenStream= (systemd.socket(5)), as far as two exports
// must not have the same one.
#ifndef NBDINETD_GENERATOR_SOCKET_ADDRESS_H_
#define NBDINETD_GENERATOR_SOCKET_ADDRESS_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

class SocketAddress {
 public:
  explicit SocketAddress(absl::string_view text);

  const std::string& text() const { return text_; }

  // Whether two sockets can't be bound to these addresses at the same time:
  // they are equal, or one of them is every address of the other's port. An
  // address that isn't understood collides with an equal text only.
  bool CollidesWith(const SocketAddress& other) const;

  // Whether it is a socket in the file system, which has a mode.
  bool IsPath() const;

 private:
  bool ParseTcp();
  bool IsEvery() const { return address_ == decltype(address_){}; }

  std::string text_;
  uint32_t port_ = 0;                     // of TCP; 0 for all others
  int family_ = 0;                        // AF_UNSPEC: both IPv4 and IPv6
  std::array<uint8_t, 16> address_ = {};  // all zeroes: every one
};

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_SOCKET_ADDRESS_H_
