// The process that listens, and the processes that it forks.
#ifndef NBDINETD_CLI_LISTENER_PROCESS_H_
#define NBDINETD_CLI_LISTENER_PROCESS_H_

#include <vector>

#include "absl/status/status.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "base/signals.h"
#include "base/unique_fd.h"
#include "cli/invocation.h"
#include "cli/open_catalog.h"
#include "server/listener.h"

namespace nbdinetd {

// Listens on inherited sockets until a signal or --exit-idle stops it. Returns
// the exit status: in a forked process, that of its connection.
int ListenOnInherited(std::vector<UniqueFd> sockets,
                      const Invocation& invocation, ServiceManager& manager,
                      Log& log);

// The steps between bind(2) and the first accept(2): writes --pidfile, changes
// to the user of --user, and opens as that user everything that each connection
// opens again, since an error is better reported now than to the first client.
// OpenSSL stays loaded for the forked processes. After an error, too, the
// caller removes the files of `resources`. InvalidArgument: wrong options;
// AlreadyExists: the pidfile; another code: a file can't be opened or the user
// can't be changed.
absl::Status PrepareToListen(const Invocation& invocation,
                             MissingExport missing, const Log& log,
                             ListenerResources& resources);

// Listens until a signal, --exit-idle or the end of the command of --run stops
// it; in each forked process, serves the connection. Returns the exit status.
int RunListener(ListenerResources resources, Signals signals,
                const Invocation& invocation, ServiceManager& manager,
                Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_LISTENER_PROCESS_H_
