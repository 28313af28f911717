#include "sandbox/landlock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "base/unique_fd.h"
#include "sandbox/privileges.h"
#include "unit/sandbox/child.h"

namespace nbdinetd {
namespace {

class LandlockTest : public testing::Test {
 protected:
  void SetUp() override {
    const int version = nbdtest::InChild(
        [] { return ForbidNewPrivileges() != 0 ? 1 : EnterLandlock({}); });
    if (version == ENOSYS || version == EOPNOTSUPP)
      GTEST_SKIP() << "no Landlock in this kernel";
    char path[] = "/tmp/nbdinetd-landlock-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    path_ = path;
    ASSERT_EQ(mkdir((path_ + "/inside").c_str(), 0700), 0);
    for (const char* name : {"/inside/file", "/outside"}) {
      ASSERT_TRUE(
          UniqueFd(open((path_ + name).c_str(), O_CREAT | O_WRONLY, 0600))
              .valid());
    }
  }
  void TearDown() override {
    if (path_.empty()) return;
    ASSERT_EQ(std::system(("rm -r " + path_).c_str()), 0);
  }

  // Calls `function` with Landlock in place; -1 becomes its errno.
  template <typename Function>
  int Inside(SandboxFacts facts, Function function) {
    return nbdtest::InChild([&] {
      if (ForbidNewPrivileges() != 0) return 200;
      if (const int error = EnterLandlock(facts)) return error;
      return function() == -1 ? errno : 0;
    });
  }
  int Opening(SandboxFacts facts, const char* name, int flags) {
    return Inside(facts,
                  [&] { return open((path_ + name).c_str(), flags, 0600); });
  }
  // With the directory of which exports are served.
  SandboxFacts Directory(bool writable) {
    SandboxFacts facts;
    directory_.Reset(open((path_ + "/inside").c_str(), O_PATH | O_DIRECTORY));
    facts.directory_fd = directory_.get();
    facts.writable = writable;
    facts.block_devices = true;
    return facts;
  }

  std::string path_;
  UniqueFd directory_;
};

// Landlock's since version 3, of Linux 6.2; the filter forbids truncate(2).
bool KnowsTruncation() {
  return syscall(SYS_landlock_create_ruleset, nullptr, 0,
                 LANDLOCK_CREATE_RULESET_VERSION) >= 3;
}

TEST_F(LandlockTest, NoFileCanBeOpened) {
  EXPECT_EQ(Opening({}, "/outside", O_RDONLY), EACCES);
  EXPECT_EQ(Opening({}, "/inside", O_RDONLY | O_DIRECTORY), EACCES);
  EXPECT_EQ(Opening({}, "/new", O_WRONLY | O_CREAT), EACCES);
  SandboxFacts all;
  all.tls = all.writable = all.block_devices = all.exclusive = all.takeover =
      true;
  EXPECT_EQ(Opening(all, "/outside", O_RDONLY), EACCES);
}

TEST_F(LandlockTest, NothingCanBeMadeOrRemoved) {
  EXPECT_EQ(Inside({}, [&] { return unlink((path_ + "/outside").c_str()); }),
            EACCES);
  EXPECT_EQ(Inside({}, [&] { return mkdir((path_ + "/new").c_str(), 0700); }),
            EACCES);
  EXPECT_EQ(
      Inside({}, [&] { return truncate((path_ + "/outside").c_str(), 1); }),
      KnowsTruncation() ? EACCES : 0);
  EXPECT_EQ(Inside({}, [&] { return execl("/bin/true", "true", nullptr); }),
            EACCES);
}

TEST_F(LandlockTest, WhatIsOpenStaysAsItIs) {
  const UniqueFd file(open((path_ + "/outside").c_str(), O_RDWR));
  EXPECT_EQ(
      Inside({},
             [&] { return static_cast<int>(pwrite(file.get(), "x", 1, 0)); }),
      0);
  EXPECT_EQ(Inside({}, [&] { return fallocate(file.get(), 0, 0, 4096); }), 0);
}

TEST_F(LandlockTest, FilesOfTheDirectoryCanBeOpenedAndListed) {
  for (const bool writable : {false, true}) {
    const SandboxFacts facts = Directory(writable);
    EXPECT_EQ(Opening(facts, "/inside/file", O_RDONLY), 0);
    EXPECT_EQ(Opening(facts, "/inside", O_RDONLY | O_DIRECTORY), 0);
    EXPECT_EQ(Opening(facts, "/inside/file", O_RDWR), writable ? 0 : EACCES);
    EXPECT_EQ(Opening(facts, "/inside/file", O_WRONLY | O_TRUNC),
              writable && !KnowsTruncation() ? 0 : EACCES);
    EXPECT_EQ(Opening(facts, "/inside/new", O_WRONLY | O_CREAT), EACCES);
    EXPECT_EQ(Opening(facts, "/outside", O_RDONLY), EACCES);
    EXPECT_EQ(
        Inside(facts, [&] { return unlink((path_ + "/inside/file").c_str()); }),
        EACCES);
  }
}

TEST_F(LandlockTest, NobodyElseCanBeSignalledUnlessForATakeover) {
  SandboxFacts facts;
  const int alone = Inside(facts, [] { return kill(getppid(), 0); });
  if (alone == 0) GTEST_SKIP() << "this kernel's Landlock has no scopes";
  EXPECT_EQ(alone, EPERM);
  facts.takeover = true;
  EXPECT_EQ(Inside(facts, [] { return kill(getppid(), 0); }), 0);
}

TEST_F(LandlockTest, NoTcpConnectionCanBeMade) {
  const auto connect_anywhere = [] {
    const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(1);
    return connect(socket.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof(address));
  };
  const int error = Inside({}, connect_anywhere);
  if (error == ECONNREFUSED)
    GTEST_SKIP() << "this kernel's Landlock knows no network";
  EXPECT_EQ(error, EACCES);
}

}  // namespace
}  // namespace nbdinetd
