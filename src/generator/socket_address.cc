#include "generator/socket_address.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace nbdinetd {

SocketAddress::SocketAddress(absl::string_view text) : text_(text) {
  if (!ParseTcp()) port_ = 0;
}

bool SocketAddress::ParseTcp() {
  const absl::string_view text = text_;
  const size_t colon = text.rfind(':');
  const bool has_host = colon != absl::string_view::npos;
  if (!absl::SimpleAtoi(has_host ? text.substr(colon + 1) : text, &port_)) {
    return false;
  }
  family_ = AF_UNSPEC;
  if (!has_host) return true;
  absl::string_view host = text.substr(0, colon);
  const bool is_ipv6 =
      absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  family_ = is_ipv6 ? AF_INET6 : AF_INET;
  const std::string name(host);
  if (inet_pton(family_, name.c_str(), address_.data()) != 1) return false;
  // The shipped sockets have BindIPv6Only=both.
  if (is_ipv6 && IsEvery()) family_ = AF_UNSPEC;
  return true;
}

bool SocketAddress::CollidesWith(const SocketAddress& other) const {
  if (port_ == 0 || port_ != other.port_) return text_ == other.text_;
  if (family_ == AF_UNSPEC || other.family_ == AF_UNSPEC) return true;
  return family_ == other.family_ &&
         (IsEvery() || other.IsEvery() || address_ == other.address_);
}

bool SocketAddress::IsPath() const {
  // A specifier, as in %t/nbd.sock, is a directory.
  return !text_.empty() && (text_[0] == '/' || text_[0] == '%');
}

}  // namespace nbdinetd
