// The identity of a client, as far as it is known: kept copies belong to it. A
// plain value.
#ifndef NBDINETD_EXPORT_CLAIMANT_H_
#define NBDINETD_EXPORT_CLAIMANT_H_

#include <string>

namespace nbdinetd {

struct Claimant {
  // The identity that TLS has verified; empty for none.
  std::string tls_identity = {};
  bool by_psk = false;  // it is a PSK's, and otherwise a certificate's
  // The IP address without a port; empty where there is none.
  std::string address = {};
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CLAIMANT_H_
