// The server's settings for each negotiation. A plain value.
#ifndef NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_
#define NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_

#include <optional>

#include "absl/time/time.h"
#include "export/claimant.h"
#include "export/exclusive.h"
#include "stream/tls.h"

namespace nbdinetd {

struct NegotiationSettings {
  TlsMode tls = TlsMode::kOff;
  // Whether the chosen export must be locked for this client.
  Exclusive exclusive = Exclusive::kOff;
  // Whom that lock has to exclude.
  ExclusiveScope exclusive_scope = ExclusiveScope::kHost;
  // Whether an image that another program keeps for itself is served for
  // writing all the same (--force-share).
  bool force_share = false;
  // Whether NBD_FLAG_CAN_MULTI_CONN is advertised; nullopt: where it holds.
  std::optional<bool> multi_conn = std::nullopt;
  // For the whole handshake phase, including the TLS handshake.
  absl::Duration time_limit = absl::InfiniteDuration();
  // The identity of the client, which copies and locks belong to.
  Claimant claimant = {};
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATION_SETTINGS_H_
