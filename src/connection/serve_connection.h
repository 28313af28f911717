// One connection from its first byte to its last: joins the phases.
#ifndef NBDINETD_CONNECTION_SERVE_CONNECTION_H_
#define NBDINETD_CONNECTION_SERVE_CONNECTION_H_

#include "base/connection.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "base/signals.h"
#include "base/timeouts.h"
#include "export/catalog.h"
#include "export/exclusive.h"
#include "sandbox/sandbox.h"
#include "stream/tls.h"

namespace nbdinetd {

// Serves the client until the connection ends, or one of `shutdown` comes
// (SIGTERM, kTakeoverSignal), and closes it. Logs who is served what, and how
// it ended; `log` gets the connection's fields, and `manager` a status. Without
// `tls` there is none, and with it `require_tls` says whether there must be.
// The result is what the process exits with.
//
// With `sandbox` this process is shut in before the first byte of the client is
// read, and can do nothing else afterwards. What the system doesn't have of it
// is logged, once; with kRequire the client is not served, and hears nothing.
ExitStatus ServeConnection(Connection connection, Catalog& catalog,
                           const Timeouts& timeouts, const Tls* tls,
                           bool require_tls, Exclusive exclusive,
                           SandboxMode sandbox, Signals& shutdown,
                           ServiceManager& manager, Log& log);

// What the log says before it says what a required sandbox lacks.
inline constexpr char kNotServing[] = "not serving: --sandbox=require, and ";

// What the sandbox of such a connection depends on.
SandboxFacts SandboxFactsOf(const Catalog& catalog, bool tls,
                            Exclusive exclusive);

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_SERVE_CONNECTION_H_
