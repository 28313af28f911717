// --check: prints what would be served, without a client.
#ifndef NBDINETD_CLI_CHECK_H_
#define NBDINETD_CLI_CHECK_H_

#include "base/log.h"
#include "cli/invocation.h"

namespace nbdinetd {

// Opens the exports, loads the keys and enters the sandbox like the process of
// a connection. Prints what would be served, or logs the error. Returns the
// exit status. Call it once: the process never leaves the sandbox.
int Check(const Invocation& invocation, const Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CHECK_H_
