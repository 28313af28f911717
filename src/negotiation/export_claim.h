// Makes the chosen export the client's: locks it, and replaces it by what the
// client is served, such as its private copy. Both ways into transmission do
// so, the handshake phase and a connection on which another program has
// negotiated. Threads: the main thread.
#ifndef NBDINETD_NEGOTIATION_EXPORT_CLAIM_H_
#define NBDINETD_NEGOTIATION_EXPORT_CLAIM_H_

#include <optional>

#include "absl/time/time.h"
#include "export/catalog.h"
#include "negotiation/negotiated.h"
#include "negotiation/negotiation_settings.h"
#include "negotiation/refusal.h"
#include "stream/channel.h"

namespace nbdinetd {

// The surroundings of a claim; all borrowed.
struct ClaimContext {
  Channel& channel;
  Catalog& catalog;
  const NegotiationSettings& settings;
  absl::Time deadline;     // of a wait for the lock
  bool tls_helps = false;  // the client isn't known, and could be by TLS
};

// Locks what the catalog reserves for the client (Catalog::Reserve()), and
// replaces negotiated.target by what the client is served (Catalog::Claim()).
// nullopt when the client has it; otherwise the reason. May receive input, as
// ExportLock::Lock() does.
std::optional<Refusal> ClaimExport(const ClaimContext& context,
                                   Negotiated& negotiated);

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_EXPORT_CLAIM_H_
