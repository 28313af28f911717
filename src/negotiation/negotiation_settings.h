// Settings of the server for each negotiation. Made once; a plain value.
#ifndef NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_
#define NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_

#include "absl/time/time.h"
#include "export/exclusive.h"
#include "stream/tls.h"

namespace nbdinetd {

struct NegotiationSettings {
  TlsMode tls = TlsMode::kOff;
  // --exclusive.
  Exclusive exclusive = Exclusive::kOff;
  // Of the whole handshake phase, including the TLS handshake.
  absl::Duration time_limit = absl::InfiniteDuration();
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_
