// Stand-alone mode: nbdinetd binds its sockets by itself.
#ifndef NBDINETD_CLI_STAND_ALONE_H_
#define NBDINETD_CLI_STAND_ALONE_H_

#include "base/log.h"
#include "base/service_manager.h"
#include "cli/invocation.h"

namespace nbdinetd {

// Binds, goes into the background unless --foreground or --run is given,
// starts the command of --run, and listens until it is told to stop, or the
// command has ended. What the process exits with, which may also be one that
// was forked for a connection.
int StandAlone(Invocation invocation, ServiceManager& manager, Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_STAND_ALONE_H_
