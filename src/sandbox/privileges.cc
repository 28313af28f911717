#include "sandbox/privileges.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace nbdinetd {

int ForbidNewPrivileges() {
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno;
}

int DropCapabilities() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  if (syscall(SYS_capget, &header, sets) != 0) return errno;
  // Without capabilities, as for an ordinary user, capset(2) isn't called: an
  // outer sandbox might refuse it. The ambient set is a subset of these.
  bool any = false;
  for (const __user_cap_data_struct& set : sets) {
    any |= (set.effective | set.permitted | set.inheritable) != 0;
  }
  if (!any) return 0;
  // The bounding set, which needs CAP_SETPCAP. A process without it keeps its
  // bounding set, and gains nothing by it, since no executed program can gain
  // privileges.
  if ((sets[0].effective & (1u << CAP_SETPCAP)) != 0) {
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0;
         ++capability) {
    }
  }
  const __user_cap_data_struct none[2] = {};
  return syscall(SYS_capset, &header, none) == 0 ? 0 : errno;
}

int ForbidCoreDumps() {
  constexpr rlimit kNone = {0, 0};
  return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 &&
                 setrlimit(RLIMIT_CORE, &kNone) == 0
             ? 0
             : errno;
}

}  // namespace nbdinetd
