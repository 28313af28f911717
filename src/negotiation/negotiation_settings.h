// What the server wants of each negotiation. Made once, whole; a plain value.
#ifndef NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_
#define NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_

#include "absl/time/time.h"
#include "export/exclusive.h"
#include "stream/tls.h"

namespace nbdinetd {

struct NegotiationSettings {
  TlsMode tls = TlsMode::kOff;
  // Whether the export that is chosen must be nobody else's.
  Exclusive exclusive = Exclusive::kOff;
  // Of the whole handshake phase, that of TLS included.
  absl::Duration time_limit = absl::InfiniteDuration();
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_
