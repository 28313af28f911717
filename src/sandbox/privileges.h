// The privileges that a process can do without.
#ifndef NBDINETD_SANDBOX_PRIVILEGES_H_
#define NBDINETD_SANDBOX_PRIVILEGES_H_

namespace nbdinetd {

// No program that this process executes gains anything by it. 0 or an errno.
int ForbidNewPrivileges();

// Gives up all capabilities, for ever, once new privileges are forbidden. The
// process stays whoever it is: root owns root's files. 0 or an errno.
int DropCapabilities();

// No core dump of this process, which has keys and a client's data in its
// memory, is ever written; nor can other processes of its user look into it
// (ptrace(2), most of /proc/PID). After the last change of user, which would
// allow both again (PR_SET_DUMPABLE(2const)). 0 or an errno.
int ForbidCoreDumps();

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_PRIVILEGES_H_
