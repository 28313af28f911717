// From a Channel in plain text to one over TLS.
#ifndef NBDINETD_STREAM_TLS_UPGRADE_H_
#define NBDINETD_STREAM_TLS_UPGRADE_H_

#include <optional>
#include <string>

#include "base/exit_status.h"
#include "stream/channel.h"
#include "stream/tls.h"

namespace nbdinetd {

struct TlsPeer {
  std::string identity;     // as the peer has it; empty when it wasn't asked
  std::string description;  // of the protocol and the cipher
};

// Shakes hands with a peer whose next bytes are TLS, until the channel's
// deadline or a shutdown. Then `*peer` says who it is; else the connection has
// ended, for the reason returned. `tls` must outlive the channel.
std::optional<Ending> UpgradeToTls(Channel& channel, const Tls& tls,
                                   TlsPeer* peer);

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_UPGRADE_H_
