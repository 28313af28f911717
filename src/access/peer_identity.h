// The identity of a peer, for the rules about it. Plain values.
#ifndef NBDINETD_ACCESS_PEER_IDENTITY_H_
#define NBDINETD_ACCESS_PEER_IDENTITY_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nbdinetd {

// The identity of a peer, as the kernel reports it. An IPv4-mapped IPv6 address
// becomes an IPv4 address.
struct PeerIdentity {
  // kUnnamed: a peer that somebody asks about, and of which only TLS is given.
  enum class Family { kUnknown, kIpv4, kIpv6, kUnix, kVsock, kUnnamed };
  Family family = Family::kUnknown;
  // IPv4: the first four bytes.
  std::array<uint8_t, 16> address = {};
  // Unix: the user and groups of the connecting process when it connected.
  uint32_t uid = 0xffffffff;        // which no user has
  std::vector<uint32_t> gids = {};  // the primary group first
  // Unix: the systemd unit of the process that connected; empty if it is in
  // none, nullopt if it is unknown.
  std::optional<std::string> unit = std::nullopt;
  // Why the unit is unknown, for the log; empty if nobody asked for it.
  std::string why_no_unit = {};
  uint32_t cid = 0;  // vsock
};

// The identity that TLS has verified. All is empty before TLS, and with
// certificates of the server alone.
struct TlsIdentity {
  std::string subject = {};  // of the certificate (RFC 2253)
  std::string issuer = {};   // of the certificate (RFC 2253)
  std::string psk = {};      // the PSK identity

  bool is_known() const {
    return !subject.empty() || !issuer.empty() || !psk.empty();
  }
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_PEER_IDENTITY_H_
