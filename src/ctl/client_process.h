// The process that serves a connection, for signals to it: a process id alone
// may belong to another process by the time that a signal is sent.
#ifndef NBDINETD_CTL_CLIENT_PROCESS_H_
#define NBDINETD_CTL_CLIENT_PROCESS_H_

#include <cstdint>

#include "base/unique_fd.h"
#include "ctl/connections.h"

namespace nbdinetd::ctl {

// A pidfd of the process of `connection`, whose `pid` is known. Invalid if that
// has ended, with errno ESRCH, or can't be had, with another errno. The first
// call raises this process's limit of descriptors as far as it may.
UniqueFd OpenClientProcess(const LiveConnection& connection);

// Whether the process takes this signal from a descriptor. The default action
// would end a process that doesn't: one that has just started, or an older
// nbdinetd. A process that systemd has forked, and that isn't nbdinetd yet,
// blocks other signals, too.
bool WaitsFor(uint64_t pid, int signal);

// Sends a signal, with a value if it isn't 0. 0 or an errno value: ESRCH if the
// process has ended.
int SendSignal(const UniqueFd& pidfd, int number, uint64_t value = 0);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_CLIENT_PROCESS_H_
