// A file system that ignores PUNCH_HOLE and reports success, as ext4 does far
// out with some kernels: the linker puts a function of this file in place of
// fallocate(2) (tests/tests.mk).

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <cstdint>
#include <string>

#include "export/open.h"
#include "support/image.h"

namespace {
bool g_holes_are_ignored = false;
}  // namespace

extern "C" {
int __real_fallocate(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t length) {
  if (g_holes_are_ignored && (mode & FALLOC_FL_PUNCH_HOLE) != 0) return 0;
  return __real_fallocate(fd, mode, offset, length);
}
}

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;
using nbdtest::TempImage;

constexpr uint64_t kFarOut = uint64_t{20} << 30;

TEST(IgnoredHoles, AreZeroesAllTheSame) {
  const TempImage image = TempImage::Sparse(kFarOut + (1 << 20));
  struct statfs st;
  ASSERT_EQ(statfs(image.path().c_str(), &st), 0);
  if (st.f_type != EXT4_SUPER_MAGIC && st.f_type != OVERLAYFS_SUPER_MAGIC) {
    GTEST_SKIP() << "this file system ignores none";
  }
  image.Write(kFarOut, Pattern(kFarOut, 300000));
  std::string reason;
  const auto target = OpenExport(image.path(), {}, &reason);
  ASSERT_TRUE(target.ok()) << target.status();
  g_holes_are_ignored = true;
  EXPECT_EQ((*target)->Zero(kFarOut + 1, 299999, Export::Hole::kAllowed,
                            Export::Speed::kFastOnly, nullptr),
            0);
  g_holes_are_ignored = false;
  EXPECT_TRUE(image.Read(kFarOut, 300000) ==
              Pattern(kFarOut, 1) + Bytes(299999, '\0'));
}

}  // namespace
}  // namespace nbdinetd
