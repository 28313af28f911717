// Stand-alone mode: nbdinetd binds its own sockets.
#ifndef NBDINETD_CLI_STAND_ALONE_H_
#define NBDINETD_CLI_STAND_ALONE_H_

#include "base/log.h"
#include "base/service_manager.h"
#include "cli/invocation.h"

namespace nbdinetd {

// Binds the sockets, enters the background unless --foreground or --run is
// given, starts the command of --run, and listens until a signal arrives or the
// command ends. Returns the exit status: in a forked process, that of its
// connection.
int StandAlone(Invocation invocation, ServiceManager& manager, Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_STAND_ALONE_H_
