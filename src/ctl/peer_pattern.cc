#include "ctl/peer_pattern.h"

#include <arpa/inet.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace nbdinetd::ctl {
namespace {

// An address in the form that the kernel prints; other texts as they are.
std::string Canonical(absl::string_view text) {
  if (absl::StartsWith(text, "[") && absl::EndsWith(text, "]")) {
    text = text.substr(1, text.size() - 2);
  }
  const std::string address(text);
  unsigned char bytes[sizeof(in6_addr)];
  char printed[INET6_ADDRSTRLEN];
  for (const int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, address.c_str(), bytes) == 1 &&
        inet_ntop(family, bytes, printed, sizeof(printed)) != nullptr) {
      return printed;
    }
  }
  return address;
}

// "192.0.2.7:40000" without its port; empty when there is none.
absl::string_view WithoutPort(absl::string_view peer) {
  const size_t colon = peer.rfind(':');
  return colon == absl::string_view::npos ? "" : peer.substr(0, colon);
}

bool IsPartOfUnixPeer(absl::string_view pattern, absl::string_view peer) {
  if (!absl::ConsumePrefix(&pattern, "unix:") ||
      !absl::ConsumePrefix(&peer, "unix:")) {
    return false;
  }
  for (const absl::string_view part : absl::StrSplit(peer, ',')) {
    if (part == pattern) return true;
  }
  return false;
}

}  // namespace

bool IsPeerMeant(absl::string_view pattern, absl::string_view peer,
                 absl::string_view identity) {
  if (pattern.empty()) return false;
  if (pattern == peer || pattern == identity) return true;
  if (IsPartOfUnixPeer(pattern, peer)) return true;
  // "unix:pid=12" of "unix:pid=12,uid=0" is no address with a port.
  if (absl::StartsWith(peer, "unix")) return false;
  const absl::string_view address = WithoutPort(peer);
  if (address.empty()) return false;
  if (Canonical(pattern) == Canonical(address)) return true;
  // An address of another spelling, with the port.
  return !WithoutPort(pattern).empty() &&
         pattern.substr(pattern.rfind(':')) == peer.substr(peer.rfind(':')) &&
         Canonical(WithoutPort(pattern)) == Canonical(address);
}

}  // namespace nbdinetd::ctl
