// The systemd unit of the process at the other end of a Unix socket.
//
// A process id alone proves nothing: the process may have ended, and another
// one may have its id. The kernel therefore gives a pidfd of the process that
// connected (SO_PEERPIDFD, since Linux 6.5). Its id is read, then the process's
// control group by that id, and then the pidfd tells whether the process still
// runs: if so, the id was its own the whole time. Without SO_PEERPIDFD the unit
// is unknown; it is never guessed.
//
// Control groups below a system's slices belong to its service manager, so that
// an unprivileged process can't choose its unit. Those below the unit may
// belong to the unit: a user's own service manager names units in it as the
// user likes. The unit is therefore the first one on the way down from the
// root, as in systemd (sd_pid_get_unit(3)): user@1000.service, and not
// x.service of user 1000.
//
// Threads: any.
#ifndef NBDINETD_SERVER_PEER_UNIT_H_
#define NBDINETD_SERVER_PEER_UNIT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

// The unit's name, such as "qemu.service"; empty for a process in none, such as
// one in a slice itself. An error says why the unit is unknown: the kernel has
// no SO_PEERPIDFD; the process has ended, or isn't visible in this process's
// PID namespace or /proc; or its control group is outside of this process's
// cgroup namespace.
absl::StatusOr<std::string> UnitOfPeer(int fd);

// The unit in the content of a /proc/PID/cgroup, of the unified hierarchy.
// Errors as above.
absl::StatusOr<std::string> UnitOfCgroups(absl::string_view content);

// The process id in the content of a /proc/self/fdinfo/FD of a pidfd; 0 if the
// process has ended, or isn't visible.
int ProcessOfPidfd(absl::string_view content);

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_PEER_UNIT_H_
