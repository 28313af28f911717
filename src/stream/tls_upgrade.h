// Upgrades a Channel from plain text to TLS.
#ifndef NBDINETD_STREAM_TLS_UPGRADE_H_
#define NBDINETD_STREAM_TLS_UPGRADE_H_

#include <optional>
#include <string>

#include "base/exit_status.h"
#include "stream/channel.h"
#include "stream/tls.h"

namespace nbdinetd {

struct TlsPeer {
  std::string identity;     // verified; empty when none was requested
  bool has_psk = false;     // it is that of a PSK, not a certificate's subject
  std::string issuer;       // of the certificate
  std::string description;  // of the protocol and the cipher
};

// Performs the TLS handshake with a peer whose next bytes are TLS, until the
// channel's deadline or a shutdown. Returns nullopt and fills `*peer`, or
// returns why the connection ended. `tls` must outlive the channel.
std::optional<Ending> UpgradeToTls(Channel& channel, const Tls& tls,
                                   TlsPeer* peer);

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_UPGRADE_H_
