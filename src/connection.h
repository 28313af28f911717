// One connection from its first byte to its last: joins the phases.
#ifndef NBDINETD_CONNECTION_H_
#define NBDINETD_CONNECTION_H_

#include "activation.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/signals.h"
#include "export/catalog.h"

namespace nbdinetd {

// Serves the client until the connection ends, and closes it. Logs who is
// served what, and how it ended; `log` gets the connection's fields. The
// result is what the process exits with.
ExitStatus ServeConnection(Connection connection, const Catalog& catalog,
                           const Signals& shutdown, Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_H_
