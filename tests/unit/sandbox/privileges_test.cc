#include "sandbox/privileges.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "unit/sandbox/child.h"

namespace nbdinetd {
namespace {

TEST(PrivilegesTest, NewOnesAreForbiddenForEver) {
  EXPECT_EQ(nbdtest::InChild([] {
              if (ForbidNewPrivileges() != 0) return 1;
              if (ForbidNewPrivileges() != 0) return 2;
              return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 3;
            }),
            0);
}

// All five sets; and none of them can be filled again.
TEST(PrivilegesTest, NoCapabilityIsLeft) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to have some";
  EXPECT_EQ(
      nbdtest::InChild([] {
        if (ForbidNewPrivileges() != 0 || DropCapabilities() != 0) return 1;
        __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct sets[2] = {};
        if (syscall(SYS_capget, &header, sets) != 0) return 2;
        for (const auto& set : sets) {
          if ((set.effective | set.permitted | set.inheritable) != 0) return 3;
        }
        for (int i = 0; i <= CAP_LAST_CAP; ++i) {
          if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) != 0) return 4;
          if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) != 0)
            return 5;
        }
        sets[0].permitted = 1;
        return syscall(SYS_capset, &header, sets) == -1 && errno == EPERM ? 0
                                                                          : 6;
      }),
      0);
}

TEST(PrivilegesTest, WhoHasNoneHasNoneToGiveUp) {
  EXPECT_EQ(nbdtest::InChild([] {
              if (geteuid() == 0 && setresuid(64322, 64322, 64322) != 0)
                return 1;
              return DropCapabilities();
            }),
            0);
}

TEST(PrivilegesTest, TheUserStays) {
  EXPECT_EQ(nbdtest::InChild([] {
              const uid_t user = geteuid();
              if (DropCapabilities() != 0) return 1;
              return geteuid() == user ? 0 : 2;
            }),
            0);
}

}  // namespace
}  // namespace nbdinetd
