// Removes privileges that a connection's process doesn't need.
#ifndef NBDINETD_SANDBOX_PRIVILEGES_H_
#define NBDINETD_SANDBOX_PRIVILEGES_H_

namespace nbdinetd {

// No program that this process executes gains privileges by it
// (PR_SET_NO_NEW_PRIVS). Returns 0 or an errno value.
int ForbidNewPrivileges();

// Removes all capabilities; call it after ForbidNewPrivileges(), so that none
// can be regained. The user stays the same: root still owns root's files.
// Returns 0 or an errno value.
int DropCapabilities();

// Prevents core dumps, which would contain keys and a client's data, and access
// by other processes of the same user (ptrace(2), most of /proc/PID). Call it
// after the last change of user, which would allow both again
// (PR_SET_DUMPABLE(2const)). Returns 0 or an errno value.
int ForbidCoreDumps();

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_PRIVILEGES_H_
