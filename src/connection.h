// One connection from its first byte to its last: joins the phases.
#ifndef NBDINETD_CONNECTION_H_
#define NBDINETD_CONNECTION_H_

#include "activation.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/service_manager.h"
#include "export/catalog.h"
#include "export/exclusive.h"
#include "stream/tls.h"
#include "timeouts.h"

namespace nbdinetd {

// Serves the client until the connection ends, or one of `shutdown` comes
// (SIGTERM, kTakeoverSignal), and closes it. Logs who is served what, and how it
// ended; `log` gets the connection's fields, and `manager` a status. Without
// `tls` there is none, and with it `require_tls` says whether there must be. The
// result is what the process exits with.
ExitStatus ServeConnection(Connection connection, Catalog& catalog,
                           const Timeouts& timeouts, const Tls* tls,
                           bool require_tls, Exclusive exclusive,
                           Signals& shutdown, ServiceManager& manager,
                           Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_H_
