// --check: what would be served, without a client.
#ifndef NBDINETD_CLI_CHECK_H_
#define NBDINETD_CLI_CHECK_H_

#include "base/log.h"
#include "cli/invocation.h"

namespace nbdinetd {

// Opens the exports, loads the keys and enters the sandbox as the process of a
// connection would, and prints what would be served, or logs why it can't be.
// What the process exits with. Call it once: it never leaves the sandbox.
int Check(const Invocation& invocation, const Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CHECK_H_
