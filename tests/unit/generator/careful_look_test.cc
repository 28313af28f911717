// What is seen of a path, and where looking stops.
#include "generator/careful_look.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "support/image.h"

namespace nbdinetd {
namespace {

using What = CarefulLook::Seen::What;

class CarefulLookTest : public testing::Test {
 protected:
  CarefulLookTest() {
    std::filesystem::create_directories(folder_ + "/real/dir");
    std::ofstream(folder_ + "/real/dir/file") << "x";
  }

  void Link(const std::string& target, const std::string& name) const {
    ASSERT_EQ(symlink(target.c_str(), (folder_ + "/" + name).c_str()), 0);
  }

  const nbdtest::TempDir temp_dir_;
  const std::string& folder_ = temp_dir_.path();
};

TEST_F(CarefulLookTest, LinksAreFollowed) {
  Link("real", "relative");
  Link(folder_ + "/relative/dir", "absolute");
  Link("../real/dir/../dir/file", "real/up");
  const CarefulLook look;
  for (const char* path :
       {"/real/dir/file", "/relative//dir/./file", "/absolute/file", "/real/up",
        "/real/dir/../../relative/dir/file"}) {
    const CarefulLook::Seen seen = look.At(folder_ + path);
    EXPECT_EQ(seen.what, What::kFound) << path;
    EXPECT_EQ(seen.path, folder_ + "/real/dir/file") << path;
    EXPECT_TRUE(S_ISREG(seen.status.st_mode)) << path;
  }
  EXPECT_EQ(look.At("/").path, "/");
}

TEST_F(CarefulLookTest, AMissingPartAndACircleAreNoError) {
  Link("nowhere/x", "dangling");
  Link("circle", "circle");
  const CarefulLook look;
  const CarefulLook::Seen dangling = look.At(folder_ + "/dangling/y");
  EXPECT_EQ(dangling.what, What::kMissing);
  EXPECT_EQ(dangling.path, folder_ + "/nowhere/x/y");
  EXPECT_EQ(look.At(folder_ + "/circle").what, What::kUnknown);
}

TEST_F(CarefulLookTest, ADeviceKeepsTheNameThatWasGiven) {
  Link("/dev/null", "device");
  Link("/dev/vg0/not there", "later");
  const CarefulLook look;
  EXPECT_EQ(look.At(folder_ + "/device").path, "/dev/null");
  EXPECT_EQ(look.At("/dev/stdin").path, "/dev/stdin");  // a link
  EXPECT_EQ(look.At(folder_ + "/later").path, "/dev/vg0/not there");
}

TEST_F(CarefulLookTest, APathThatLeavesDevIsNoDevice) {
  Link("/dev/../" + folder_ + "/real/dir/file", "out");
  Link("/dev/pts/../null", "in");
  const CarefulLook look;
  EXPECT_EQ(look.At(folder_ + "/out").path, folder_ + "/real/dir/file");
  EXPECT_EQ(look.At(folder_ + "/in").path, "/dev/null");
}

TEST_F(CarefulLookTest, LinksOfOtherUsersAreNotFollowed) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Link("real/dir", "mine");
  Link("real/dir", "theirs");
  ASSERT_EQ(lchown((folder_ + "/theirs").c_str(), 1234, 1234), 0);
  const CarefulLook look;
  EXPECT_EQ(look.At(folder_ + "/mine/file").what, What::kFound);
  const CarefulLook::Seen seen = look.At(folder_ + "/theirs/file");
  EXPECT_EQ(seen.what, What::kUnknown);
  EXPECT_EQ(seen.path, folder_ + "/theirs/file");
}

TEST_F(CarefulLookTest, LookingStopsAtAutomountPointsAndTheNetwork) {
  Link("real", "link");
  const std::string table = folder_ + "/mountinfo";
  std::ofstream(table) << "30 1 0:30 / " << folder_
                       << "/real/dir rw shared:1 master:2 - autofs systemd-1 "
                          "rw\n31 1 0:31 / "
                       << folder_ << "/a\\040b rw - nfs4 server:/x rw\n"
                       << "32 1 0:32 / " << folder_ << "/real rw - ext4 x rw\n";
  std::filesystem::create_directory(folder_ + "/a b");
  const CarefulLook look(table);
  const CarefulLook::Seen seen = look.At(folder_ + "/link/dir/file");
  EXPECT_EQ(seen.what, What::kUnknown);
  EXPECT_EQ(seen.path, folder_ + "/real/dir/file");
  EXPECT_EQ(look.At(folder_ + "/a b").what, What::kUnknown);
  EXPECT_EQ(look.At(folder_ + "/link").what, What::kFound);
}

}  // namespace
}  // namespace nbdinetd
