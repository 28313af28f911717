// The file of --log, while another program renames it.

#include "base/log_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "base/log.h"

namespace nbdinetd {
namespace {

class LogFileTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/nbdinetd-log-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/log";
  }
  void TearDown() override {
    for (const char* name : {"/log", "/old", "/fifo"}) {
      unlink((folder_ + name).c_str());
    }
    rmdir(folder_.c_str());
  }

  void Rename() { ASSERT_EQ(rename(path_.c_str(), Old().c_str()), 0); }
  std::string Old() const { return folder_ + "/old"; }
  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  Log MakeLog() {
    return Log(
        {.destination = LogDestination::kFile, .file = *LogFile::Open(path_)});
  }

  std::string folder_, path_;
};

TEST_F(LogFileTest, IsAppendedToAndIsForItsOwnerAndGroup) {
  const mode_t before = umask(0);
  LogFile::Open(path_)->Append("a\n");
  umask(before);
  LogFile::Open(path_)->Append("b\n");
  EXPECT_EQ(Read(path_), "a\nb\n");
  struct stat st;
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
}

TEST_F(LogFileTest, IsNoPipeNorFolder) {
  const std::string fifo = folder_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const int reader = open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  for (const std::string& path : {fifo, folder_, folder_ + "/no/file"}) {
    const absl::Status status = LogFile::Open(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << path;
    EXPECT_NE(std::string(status.message()).find(path), std::string::npos);
  }
  close(reader);
}

TEST_F(LogFileTest, EachLineHasItsTimeAndProcess) {
  MakeLog().Error("failed");
  const std::string line = Read(path_);
  const std::string end =
      " nbdinetd[" + std::to_string(getpid()) + "]: failed\n";
  ASSERT_EQ(line.size(),
            std::string("2026-11-28 23:59:59").size() + end.size());
  EXPECT_EQ(line.substr(line.size() - end.size()), end);
}

TEST_F(LogFileTest, AProcessThatFollowsGoesOnInANewFile) {
  Log log = MakeLog();
  log.FollowFile();
  log.Error("a");
  Rename();
  log.Error("b");
  EXPECT_NE(Read(Old()).find(": a\n"), std::string::npos);
  EXPECT_EQ(Read(Old()).find(": b\n"), std::string::npos);
  EXPECT_NE(Read(path_).find(": b\n"), std::string::npos);
}

// As in the sandbox, where it can't look or open.
TEST_F(LogFileTest, AnotherProcessKeepsItsFile) {
  Log log = MakeLog();
  Rename();
  log.Error("a");
  EXPECT_NE(Read(Old()).find(": a\n"), std::string::npos);
  EXPECT_NE(access(path_.c_str(), F_OK), 0);
}

TEST_F(LogFileTest, AForkedProcessLooksOnceAndFollowsNoMore) {
  Log log = MakeLog();
  log.FollowFile();
  Rename();
  log.Renew();
  log.Error("a");
  EXPECT_NE(Read(path_).find(": a\n"), std::string::npos);
  Rename();
  log.Error("b");
  EXPECT_NE(Read(Old()).find(": b\n"), std::string::npos);
  EXPECT_NE(access(path_.c_str(), F_OK), 0);
}

TEST_F(LogFileTest, AFileThatCantBeMadeAnewIsKept) {
  Log log = MakeLog();
  log.FollowFile();
  Rename();
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  log.Error("a");
  EXPECT_NE(Read(Old()).find(": a\n"), std::string::npos);
  rmdir(path_.c_str());
}

}  // namespace
}  // namespace nbdinetd
