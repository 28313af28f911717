// The configuration of a connection, made once from the options; all phases use
// the same values. Threads: any, since it is immutable.
#ifndef NBDINETD_CONNECTION_CONNECTION_CONFIG_H_
#define NBDINETD_CONNECTION_CONNECTION_CONFIG_H_

#include <optional>

#include "base/timeouts.h"
#include "base/transfer_limits.h"
#include "export/exclusive.h"
#include "negotiation/agreement.h"
#include "sandbox/sandbox.h"
#include "stream/tls.h"

namespace nbdinetd {

struct ConnectionConfig {
  const Timeouts timeouts;
  const TransferLimits transfer_limits = {};
  const TlsMode tls_mode = TlsMode::kOff;
  const Exclusive exclusive = Exclusive::kOff;
  const ExclusiveScope exclusive_scope = ExclusiveScope::kHost;
  const bool force_share = false;
  // Whether CAN_MULTI_CONN is advertised; nullopt: where it holds.
  const std::optional<bool> multi_conn = std::nullopt;
  const SandboxMode sandbox_mode = kDefaultSandbox;
  // What another program has negotiated on the connection, which then begins
  // with transmission; nullopt: nothing.
  const std::optional<Agreement> negotiated = std::nullopt;
};

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_CONNECTION_CONFIG_H_
