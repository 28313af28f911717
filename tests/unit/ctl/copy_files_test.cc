#include "ctl/copy_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/unique_fd.h"
#include "support/image.h"

namespace nbdinetd::ctl {
namespace {

TEST(CopyFiles, DeletesOnlyTheFileThatIsLocked) {
  const auto image = nbdtest::TempImage::WithPattern(100);
  const CopyFile copy = {.directory = image.directory(), .name = "a.copy"};
  const std::string other = image.directory() + "/b.copy";
  const UniqueFd first(
      open(copy.path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const UniqueFd second(
      open(other.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(first.valid() && second.valid());
  ASSERT_EQ(rename(other.c_str(), copy.path().c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(DeleteCopy(copy, first.get())));
  EXPECT_EQ(access(copy.path().c_str(), F_OK), 0);
  // Nor what the name leads to.
  ASSERT_EQ(rename(copy.path().c_str(), other.c_str()), 0);
  ASSERT_EQ(symlink(other.c_str(), copy.path().c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(DeleteCopy(copy, second.get())));
  ASSERT_EQ(rename(other.c_str(), copy.path().c_str()), 0);
  EXPECT_TRUE(DeleteCopy(copy, second.get()).ok());
  EXPECT_NE(access(copy.path().c_str(), F_OK), 0);
  EXPECT_FALSE(DeleteCopy(copy, second.get()).ok());
}

}  // namespace
}  // namespace nbdinetd::ctl
