#include "cli/open_served.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

// A file of 64 KiB with an MBR that has one partition, of 3 sectors from 8 on.
nbdtest::TempImage ImageWithPartition() {
  nbdtest::TempImage image = nbdtest::TempImage::Sparse(64 << 10);
  image.Write(0, nbdtest::MbrOf(8, 3));
  return image;
}

// A child of the caller's that has ended, and that nobody has waited for.
pid_t EndedChild() {
  const pid_t child = fork();
  if (child == 0) _exit(7);
  siginfo_t info;
  EXPECT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT),
            0);
  return child;
}

// The process that reads tables has the file open, and a merge takes a lease
// on it next. Children of the caller's are none of its business.
TEST(OpenServedTest, OnlyTheProcessThatReadsTablesIsWaitedFor) {
  const nbdtest::TempImage image = ImageWithPartition();
  const size_t slash = image.path().rfind('/');
  const std::string name = absl::StrCat(image.path().substr(slash + 1), ":1");
  const PartitionName partition = {1, ""};
  for (const bool of_directory : {false, true}) {
    const pid_t child = EndedChild();
    const auto opened =
        of_directory
            ? OpenServedOf(image.path().substr(0, slash), name, {}, true)
            : OpenServedFile(image.path(), {.partition = partition});
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 7);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "it still runs";
    EXPECT_EQ(errno, ECHILD);
    if (absl::IsFailedPrecondition(opened.status())) {
      GTEST_SKIP() << opened.status();
    }
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->facts().size_bytes, 3 * 512u);
  }
}

// A reader is ended also where nothing can be opened.
TEST(OpenServedTest, NoProcessIsLeftBehindAFailure) {
  const nbdtest::TempImage image = ImageWithPartition();
  EXPECT_FALSE(
      OpenServedFile(image.path(), {.partition = PartitionName{2, ""}}).ok());
  EXPECT_FALSE(OpenServedOf("/missing", "x:1", {}, true).ok());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace nbdinetd
