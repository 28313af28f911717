// A client that a person asks about: what would it get? Threads: one.
#ifndef NBDINETD_ACCESS_ASKED_CLIENT_H_
#define NBDINETD_ACCESS_ASKED_CLIENT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "access/peer_identity.h"

namespace nbdinetd {

// Without an address, it is a client of whom only TLS tells something, and
// which
// `*` is about.
struct AskedClient {
  PeerIdentity peer = {.family = PeerIdentity::Family::kUnnamed};
  TlsIdentity tls = {};
  std::vector<std::string> words = {};  // as they were given

  bool empty() const { return words.empty(); }
  // Adds a WHO (access/who.h) that names one client and no pattern:
  // 192.0.2.7, uid:1000, unit:x.service, tls:CN=build-7, psk:alice.
  // InvalidArgument: a reason without the WHO.
  absl::Status Add(absl::string_view who);
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_ASKED_CLIENT_H_
