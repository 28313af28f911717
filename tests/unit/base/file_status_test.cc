#include "base/file_status.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

// The system call fills what the C library calls a struct stat.
TEST(FileStatus, SaysWhatFstatSays) {
  const UniqueFd memory(memfd_create("file", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.get(), (1l << 40) + 3), 0);
  const UniqueFd device(open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (const int fd : {memory.get(), device.get()}) {
    struct stat got = {}, wanted = {};
    ASSERT_EQ(FileStatus(fd, &got), 0);
    ASSERT_EQ(fstat(fd, &wanted), 0);
    EXPECT_EQ(got.st_dev, wanted.st_dev);
    EXPECT_EQ(got.st_ino, wanted.st_ino);
    EXPECT_EQ(got.st_mode, wanted.st_mode);
    EXPECT_EQ(got.st_nlink, wanted.st_nlink);
    EXPECT_EQ(got.st_uid, wanted.st_uid);
    EXPECT_EQ(got.st_gid, wanted.st_gid);
    EXPECT_EQ(got.st_rdev, wanted.st_rdev);
    EXPECT_EQ(got.st_size, wanted.st_size);
    EXPECT_EQ(got.st_blksize, wanted.st_blksize);
    EXPECT_EQ(got.st_blocks, wanted.st_blocks);
    EXPECT_EQ(got.st_mtim.tv_sec, wanted.st_mtim.tv_sec);
    EXPECT_EQ(got.st_mtim.tv_nsec, wanted.st_mtim.tv_nsec);
  }
}

TEST(FileStatus, FailsAsFstatDoes) {
  struct stat st;
  errno = 0;
  EXPECT_EQ(FileStatus(-1, &st), -1);
  EXPECT_EQ(errno, EBADF);
}

}  // namespace
}  // namespace nbdinetd
