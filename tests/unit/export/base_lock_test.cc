// Connections and merges: who sees whom.
#include "export/base_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "base/unique_fd.h"
#include "export/file.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

using nbdtest::TempImage;

class BaseLockTest : public testing::Test {
 protected:
  std::unique_ptr<Export> Open(
      bool read_only, Export::Sharing sharing = Export::Sharing::kOwn) {
    UniqueFd fd(open(image_.path().c_str(),
                     (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    struct stat st;
    EXPECT_EQ(fstat(fd.get(), &st), 0);
    return FileExport::Create(image_.path(), std::move(fd), st,
                              {.read_only = read_only, .sharing = sharing});
  }

  const TempImage image_ = TempImage::WithPattern(4096);
};

TEST_F(BaseLockTest, AMergeAndCopiesExcludeEachOther) {
  const auto copied = Open(true), other = Open(true);
  ASSERT_TRUE(LockBaseOfCopy(*copied).ok());
  ASSERT_TRUE(LockBaseOfCopy(*other).ok());
  EXPECT_EQ(LockBaseForMerge(*Open(false)), EAGAIN);
}

TEST_F(BaseLockTest, AConnectionSeesAMergeHoweverItHasTheFile) {
  const auto plain = Open(true), writer = Open(false),
             shared = Open(true, Export::Sharing::kShared);
  {
    const auto merged = Open(false);
    ASSERT_EQ(LockBaseForMerge(*merged), 0);
    for (const Export* target : {plain.get(), writer.get(), shared.get()}) {
      EXPECT_TRUE(absl::IsFailedPrecondition(CheckNoMerge(*target)));
      EXPECT_TRUE(absl::IsFailedPrecondition(LockBaseOfCopy(*target)));
    }
  }
  for (const Export* target : {plain.get(), writer.get(), shared.get()}) {
    EXPECT_TRUE(CheckNoMerge(*target).ok());
    EXPECT_TRUE(LockBaseOfCopy(*target).ok());
  }
}

TEST_F(BaseLockTest, ACopyIsNoMerge) {
  const auto target = Open(true), copied = Open(true);
  ASSERT_TRUE(LockBaseOfCopy(*copied).ok());
  EXPECT_TRUE(CheckNoMerge(*target).ok());
}

TEST_F(BaseLockTest, AnotherProgramsLockOfTheWholeFileIsNoMerge) {
  const auto target = Open(true), other = Open(false);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  ASSERT_EQ(fcntl(other->lock_fd(), F_OFD_SETLK, &lock), 0);
  EXPECT_TRUE(CheckNoMerge(*target).ok());
}

}  // namespace
}  // namespace nbdinetd
