// Lines of /proc/self/mountinfo, good ones and others.
#include "export/mount_table.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <optional>
#include <sstream>
#include <string>

namespace nbdinetd {
namespace {

constexpr char kTable[] =
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
    "36 22 0:31 / /srv/a\\040-\\040b rw shared:7 master:3 - fuse.ceph-fuse "
    "ceph-fuse rw,user_id=0\n"
    "37 22 0:32 / /srv/nfs rw,nosuid - nfs4 host:/x rw,local_lock=none\n"
    "38 22 0:33 /sub /srv/locks ro,relatime - nfs h:/y rw,nolock,"
    "local_lock=all\n"
    "39 22 0:32 / /other rw - tmpfs t rw\n";

std::optional<Mount> Find(const std::string& table, unsigned minor_number,
                          unsigned major_number = 0) {
  std::istringstream lines(table);
  return FindMount(lines, makedev(major_number, minor_number));
}

TEST(FindMount, TheTypeAndBothKindsOfOptionsOfTheFirstMount) {
  const auto root = Find(kTable, 1, 8);
  ASSERT_TRUE(root.has_value());
  EXPECT_EQ(root->type, "ext4");
  EXPECT_EQ(root->options, "rw,relatime,rw,errors=remount-ro");
  // Optional fields, and a path with a hyphen between spaces.
  ASSERT_TRUE(Find(kTable, 31).has_value());
  EXPECT_EQ(Find(kTable, 31)->type, "fuse.ceph-fuse");
  ASSERT_TRUE(Find(kTable, 32).has_value());
  EXPECT_EQ(Find(kTable, 32)->type, "nfs4");
}

TEST(FindMount, NoOtherNumberOfADeviceWillDo) {
  for (const unsigned minor_number : {3u, 311u, 34u, 0u}) {
    EXPECT_FALSE(Find(kTable, minor_number).has_value()) << minor_number;
  }
  EXPECT_FALSE(Find(kTable, 31, 8).has_value());
}

TEST(FindMount, WhatIsNoLineIsSkipped) {
  for (const std::string line :
       {"", "\n", " ", "36", "36 22 0:31", "36 22 0:31 / / rw",
        "36 22 0:31 / / rw -", "36 22 0:31 / / rw - fuse.sshfs",
        "36 22 0:31 / / rw - fuse.sshfs source", "36 22 0:31 / / rw shared:1",
        "a b 0:31x / / rw - t s o", std::string(1 << 16, ' ').c_str()}) {
    EXPECT_FALSE(Find(line, 31).has_value()) << line;
    const auto next = Find(line + "\n" + kTable, 31);
    ASSERT_TRUE(next.has_value()) << line;
    EXPECT_EQ(next->type, "fuse.ceph-fuse");
  }
}

TEST(FindMount, AnOptionIsAWholeOne) {
  const Mount mount = *Find(kTable, 33);
  EXPECT_TRUE(mount.HasOneOf("nolock"));
  EXPECT_TRUE(mount.HasOneOf("x,local_lock=all"));
  for (const char* other : {"lock", "local_lock", "local_lock=al", "r", "x"}) {
    EXPECT_FALSE(mount.HasOneOf(other)) << other;
  }
}

TEST(FindOwnMount, ThatOfProc) {
  struct stat st;
  ASSERT_EQ(stat("/proc/self", &st), 0);
  const auto mount = FindOwnMount(st.st_dev);
  ASSERT_TRUE(mount.has_value());
  EXPECT_EQ(mount->type, "proc");
}

}  // namespace
}  // namespace nbdinetd
