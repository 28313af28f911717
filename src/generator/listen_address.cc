#include "generator/listen_address.h"

#include <arpa/inet.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace nbdinetd {
namespace {

struct TcpAddress {
  uint32_t port = 0;
  int family = AF_UNSPEC;                // both IPv4 and IPv6
  std::array<uint8_t, 16> address = {};  // all zeroes: every one
  bool IsEvery() const { return address == std::array<uint8_t, 16>{}; }
};

std::optional<TcpAddress> ParseTcp(absl::string_view text) {
  TcpAddress tcp;
  const size_t colon = text.rfind(':');
  const absl::string_view port =
      colon == absl::string_view::npos ? text : text.substr(colon + 1);
  if (!absl::SimpleAtoi(port, &tcp.port)) return std::nullopt;
  if (colon == absl::string_view::npos) return tcp;
  absl::string_view host = text.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]")) {
    tcp.family = AF_INET6;
  } else {
    tcp.family = AF_INET;
  }
  const std::string name(host);
  if (inet_pton(tcp.family, name.c_str(), tcp.address.data()) != 1) {
    return std::nullopt;
  }
  // The shipped sockets have BindIPv6Only=both.
  if (tcp.family == AF_INET6 && tcp.IsEvery()) tcp.family = AF_UNSPEC;
  return tcp;
}

}  // namespace

bool Collide(absl::string_view a, absl::string_view b) {
  if (a == b) return true;
  const std::optional<TcpAddress> one = ParseTcp(a);
  const std::optional<TcpAddress> other = ParseTcp(b);
  if (!one.has_value() || !other.has_value() || one->port != other->port) {
    return false;
  }
  if (one->family == AF_UNSPEC || other->family == AF_UNSPEC) return true;
  return one->family == other->family &&
         (one->IsEvery() || other->IsEvery() || one->address == other->address);
}

bool IsSocketPath(absl::string_view address) {
  // A specifier, as in %t/nbd.sock, is a directory.
  return !address.empty() && (address[0] == '/' || address[0] == '%');
}

}  // namespace nbdinetd
