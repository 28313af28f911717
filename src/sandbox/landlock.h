// Restricts the files that a process can access: landlock(7).
//
// The ruleset handles, and thereby removes, every right that the kernel's
// version of Landlock knows. One rule allows access beneath the directory of
// exports, if there is one, and another one beneath that of kept copies. Open
// files aren't affected. Newer versions also forbid binding and connecting TCP
// sockets, connecting to abstract Unix sockets, and signals to other processes;
// seccomp forbids these, too.
#ifndef NBDINETD_SANDBOX_LANDLOCK_H_
#define NBDINETD_SANDBOX_LANDLOCK_H_

#include "sandbox/sandbox.h"

namespace nbdinetd {

// Returns 0 or an errno value: ENOSYS or EOPNOTSUPP without Landlock.
int EnterLandlock(const SandboxFacts& facts);

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_LANDLOCK_H_
