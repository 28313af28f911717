// The process that listens, whoever bound the sockets, and those that it forks.
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

// Listens on sockets that this process has inherited, until it is told to stop.
// What the process exits with, which may also be one that was forked for a
// connection.
int ListenOnInherited(std::vector<UniqueFd> sockets,
                      const Invocation& invocation, ServiceManager& manager,
                      Log& log);

// What stands between the sockets and the first accept: writes --pidfile,
// changes to the user of --user, and opens as that user what each connection
// will open again, since an error is better told now than to the first client.
// What is loaded of OpenSSL stays for the processes that are forked.
// `resources` holds what has to be removed after an error, too.
absl::Status PrepareToListen(const Invocation& invocation,
                             MissingExport missing, const Log& log,
                             ListenerResources& resources);

// Listens until it is told to stop; in each process that it forks, serves.
int RunListener(ListenerResources resources, Signals signals,
                const Invocation& invocation, ServiceManager& manager,
                Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_LISTENER_PROCESS_H_
