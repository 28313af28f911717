// One connection from its first byte to its last: joins the phases.
#ifndef NBDINETD_CONNECTION_SERVE_CONNECTION_H_
#define NBDINETD_CONNECTION_SERVE_CONNECTION_H_

#include "base/connection.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "base/signals.h"
#include "connection/connection_config.h"
#include "export/catalog.h"
#include "sandbox/sandbox.h"
#include "stream/tls.h"

namespace nbdinetd {

// What the process of a connection has beside the connection; all borrowed.
struct ProcessContext {
  // End the connection: SIGTERM, SIGINT and, with --exclusive, kTakeoverSignal.
  Signals& shutdown;
  ServiceManager& manager;
  Log& log;
};

// Serves the client until the connection ends, or one of `process.shutdown`
// comes, and closes it. Logs who is served what, and how it ended; the log gets
// the connection's fields, and the manager a status. `tls` is what was loaded
// for `config.tls_mode`: nullptr for kOff, and for no other. The result is what
// the process exits with.
//
// Unless `config.sandbox_mode` is kOff, this process enters the sandbox before
// it reads the first byte of the client, and never leaves it. What the system
// doesn't have of it is logged, once; with kRequire the client is then
// disconnected before the greeting.
ExitStatus ServeConnection(Connection connection, Catalog& catalog,
                           const Tls* tls, const ConnectionConfig& config,
                           const ProcessContext& process);

// What the log says before it says what a required sandbox lacks.
inline constexpr char kNotServing[] = "not serving: --sandbox=require, and ";

// What the sandbox of such a connection depends on.
SandboxFacts SandboxFactsOf(const Catalog& catalog,
                            const ConnectionConfig& config);

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_SERVE_CONNECTION_H_
