// The way into transmission without a handshake phase, on a connection on which
// another program has negotiated (--negotiated). Threads: the main thread.
#ifndef NBDINETD_NEGOTIATION_SKIP_HANDSHAKE_H_
#define NBDINETD_NEGOTIATION_SKIP_HANDSHAKE_H_

#include <variant>

#include "base/exit_status.h"
#include "export/catalog.h"
#include "negotiation/agreement.h"
#include "negotiation/negotiated.h"
#include "negotiation/negotiation_settings.h"
#include "stream/channel.h"

namespace nbdinetd {

// Claims the default export as the handshake phase would have, under
// `agreement`, which the other program has reached with the client. Sends
// nothing. What the client has sent may be received while the export's lock is
// waited for, and stays in the channel. Ending: the client can't have the
// export. It can't be told why, since the handshake phase is over.
std::variant<Negotiated, Ending> SkipHandshake(
    Channel& channel, Catalog& catalog, const NegotiationSettings& settings,
    const Agreement& agreement);

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_SKIP_HANDSHAKE_H_
