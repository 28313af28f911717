// The process that serves one connection, whoever accepted it.
#ifndef NBDINETD_CLI_CONNECTION_PROCESS_H_
#define NBDINETD_CLI_CONNECTION_PROCESS_H_

#include "base/connection.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "cli/invocation.h"
#include "cli/open_catalog.h"

namespace nbdinetd {

// Serves a connection that this process has inherited, unless it is over or
// --deny refuses its peer, as the user of --user. What the process exits with.
int ServeInherited(Connection connection, const Invocation& invocation,
                   ServiceManager& manager, Log& log);

// Opens what is served, and serves it until the connection ends. The process is
// the connection's from here on: descriptors 0 and 1 become /dev/null, and it
// ends in the sandbox. What it exits with.
int RunConnectionProcess(Connection connection, const Invocation& invocation,
                         KeyWarnings warnings, ServiceManager& manager,
                         Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CONNECTION_PROCESS_H_
