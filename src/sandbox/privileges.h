// The privileges that a process can do without.
#ifndef NBDINETD_SANDBOX_PRIVILEGES_H_
#define NBDINETD_SANDBOX_PRIVILEGES_H_

namespace nbdinetd {

// No program that this process executes gains anything by it. 0 or an errno.
int ForbidNewPrivileges();

// Gives up all capabilities, for ever, once new privileges are forbidden. The
// process stays whoever it is: root owns root's files. 0 or an errno.
int DropCapabilities();

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_PRIVILEGES_H_
