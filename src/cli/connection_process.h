// The process that serves one connection.
#ifndef NBDINETD_CLI_CONNECTION_PROCESS_H_
#define NBDINETD_CLI_CONNECTION_PROCESS_H_

#include "absl/status/status.h"
#include "base/connection.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "cli/invocation.h"
#include "cli/open_catalog.h"
#include "connection/serve_connection.h"
#include "server/bind.h"

namespace nbdinetd {

// Changes to the user of --user, and gives it the sockets. --exit-with-parent
// holds afterwards, too. Errors as those of ChangeUser() and EndWithParent().
absl::Status BecomeUser(const Options& options, const BoundSockets& sockets);

// Changes to the user of --user, and serves a connection that this process has
// inherited. Serves nothing if the connection has been shut down, or --deny
// refuses its peer. Returns the exit status.
int ServeInherited(Connection connection, const Invocation& invocation,
                   ServiceManager& manager, Log& log);

// Opens the exports and serves the connection until it ends. The process can
// serve no other connection: descriptors 0 and 1 become /dev/null, and it stays
// in the sandbox.
ConnectionResult RunConnectionProcess(Connection connection,
                                      const Invocation& invocation,
                                      KeyWarnings warnings,
                                      ServiceManager& manager, Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CONNECTION_PROCESS_H_
