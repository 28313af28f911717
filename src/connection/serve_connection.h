// Serves one connection from its first byte to its last: calls the phases.
// Threads: the main thread.
#ifndef NBDINETD_CONNECTION_SERVE_CONNECTION_H_
#define NBDINETD_CONNECTION_SERVE_CONNECTION_H_

#include "access/ruled_client.h"
#include "base/connection.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "connection/connection_config.h"
#include "connection/connection_signals.h"
#include "export/catalog.h"
#include "sandbox/sandbox.h"
#include "stream/tls.h"

namespace nbdinetd {

// The resources of the process of a connection, besides the connection; all
// borrowed.
struct ProcessContext {
  // SIGTERM, SIGINT and, with --exclusive, kTakeoverSignal end the connection,
  // and kDrainSignal drains it;
  // LimitSignal() changes its limits.
  ConnectionSignals& signals;
  ServiceManager& manager;
  Log& log;
  // With --rules; nullptr without.
  RuledClient* ruled = nullptr;
};

struct ConnectionResult {
  ExitStatus status;  // of the process
  bool served;        // the client has chosen an export
};

// Serves the client until the connection ends or a signal that ends it
// arrives, then closes the connection. Logs the peer, the export and the
// ending; the log gets the connection's fields, and the service manager a
// status. `tls` is nullptr if and only if `config.tls_mode` is kOff.
//
// Unless `config.sandbox_mode` is kOff, the process enters the sandbox before
// it reads the first byte from the client, and never leaves it. Missing parts
// of the sandbox are logged once; with kRequire the client is then disconnected
// before the greeting.
ConnectionResult ServeConnection(Connection connection, Catalog& catalog,
                                 const Tls* tls, const ConnectionConfig& config,
                                 const ProcessContext& process);

// The start of the message about an incomplete sandbox that is required.
inline constexpr char kNotServing[] = "not serving: --sandbox=require, and ";

// The facts that the sandbox of such a connection depends on, without --rules.
SandboxFacts SandboxFactsOf(const Catalog& catalog,
                            const ConnectionConfig& config, const Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_SERVE_CONNECTION_H_
