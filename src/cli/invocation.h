// The invocation of nbdinetd: the options and files that decide what this
// process and its children serve.
#ifndef NBDINETD_CLI_INVOCATION_H_
#define NBDINETD_CLI_INVOCATION_H_

#include <utility>
#include <vector>

#include "cli/options.h"
#include "connection/connection_config.h"
#include "server/activation.h"
#include "server/listener_config.h"

namespace nbdinetd {

struct Invocation {
  Invocation(Options parsed, std::vector<NamedFile> handed_over)
      : options(std::move(parsed)),
        files(std::move(handed_over)),
        connection_config{
            options.timeouts,   options.transfer_limits, options.tls.mode,
            options.exclusive,  options.exclusive_scope, options.force_share,
            options.multi_conn, options.sandbox,         options.negotiated},
        listener_config{options.max_connections, options.exit_idle,
                        options.access} {}

  Options options;
  std::vector<NamedFile> files;  // handed over as descriptors
  const ConnectionConfig connection_config;
  const ListenerConfig listener_config;
};

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_INVOCATION_H_
