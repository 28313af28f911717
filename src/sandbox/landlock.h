// The files that a process can reach: by Landlock(7).
//
// A ruleset handles every right that the kernel's version of Landlock knows of,
// and so takes it away; one rule gives back those on the files beneath the
// directory whose exports are still to be opened, if there is one. Files that
// are open already stay as they are. Newer versions also take away binding and
// connecting TCP sockets, connecting abstract Unix sockets, and sending signals
// to others, which seccomp does, too.
#ifndef NBDINETD_SANDBOX_LANDLOCK_H_
#define NBDINETD_SANDBOX_LANDLOCK_H_

#include "sandbox/sandbox.h"

namespace nbdinetd {

// 0 or an errno: ENOSYS and EOPNOTSUPP where there is no Landlock.
int EnterLandlock(const SandboxFacts& facts);

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_LANDLOCK_H_
