#include "stream/tls_upgrade.h"

#include <cerrno>
#include <optional>
#include <utility>

namespace nbdinetd {

std::optional<Ending> UpgradeToTls(Channel& channel, const Tls& tls,
                                   TlsPeer* peer) {
  TlsStream* stream = nullptr;
  channel.Wrap([&](std::unique_ptr<Stream> plain) {
    std::unique_ptr<TlsStream> wrapped = tls.Wrap(std::move(plain));
    stream = wrapped.get();
    return wrapped;
  });
  for (;;) {
    const int result = stream->Handshake();
    if (result == 0) break;
    if (result != -EAGAIN) {
      return Ending{ExitStatus::kRefused, stream->failure()};
    }
    const Channel::Events events = channel.Wait({});
    if (channel.shutdown_requested()) {
      // TLS can't carry a message before the end of the handshake.
      return Ending{ExitStatus::kOk, "the server is shutting down"};
    }
    if (events.timeout) {
      return Ending{ExitStatus::kTimedOut,
                    "client didn't finish the TLS handshake in time"};
    }
  }
  peer->identity = stream->identity();
  peer->has_psk = stream->identity_is_psk();
  peer->issuer = stream->issuer();
  peer->description = stream->description();
  return std::nullopt;
}

}  // namespace nbdinetd
