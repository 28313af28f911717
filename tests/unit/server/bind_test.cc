#include "server/bind.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "support/image.h"

namespace nbdinetd {
namespace {

TEST(Uri, LeadsAClientOnThisMachineToTheExport) {
  ListenAddress tcp, port, ip4, ip6, vsock;
  port.port = 1234;
  ip4.ip_address = "127.0.0.2";
  ip6.ip_address = "::1";
  vsock.vsock = true;
  EXPECT_EQ(UriOf(tcp, "", ""), "nbd://localhost:10809/");
  EXPECT_EQ(UriOf(port, "", "disk"), "nbd://localhost:1234/disk");
  EXPECT_EQ(UriOf(ip4, "", "disk"), "nbd://127.0.0.2:10809/disk");
  EXPECT_EQ(UriOf(ip6, "", ""), "nbd://[::1]:10809/");
  EXPECT_EQ(UriOf(vsock, "", ""), "nbd+vsock://1:10809/");
  EXPECT_EQ(UriOf(tcp, "/tmp/nbd.sock", "disk"),
            "nbd+unix:///disk?socket=/tmp/nbd.sock");
}

TEST(Uri, SaysThatTlsIsRequired) {
  ListenAddress tcp, vsock;
  vsock.vsock = true;
  EXPECT_EQ(UriOf(tcp, "", "disk", /*require_tls=*/true),
            "nbds://localhost:10809/disk");
  EXPECT_EQ(UriOf(vsock, "", "", /*require_tls=*/true),
            "nbds+vsock://1:10809/");
  EXPECT_EQ(UriOf(tcp, "/tmp/nbd.sock", "", /*require_tls=*/true),
            "nbds+unix:///?socket=/tmp/nbd.sock");
}

TEST(Uri, EncodesWhatHasAMeaningInIt) {
  EXPECT_EQ(UriOf({}, "", "a b/c?d#e%f&\xc3\xa4"),
            "nbd://localhost:10809/a%20b%2Fc%3Fd%23e%25f%26%C3%A4");
  EXPECT_EQ(UriOf({}, "/tmp/a b?c", ""), "nbd+unix:///?socket=/tmp/a%20b%3Fc");
}

TEST(Bind, SaysWhereItFailed) {
  ListenAddress address;
  address.unix_path = "/nonexistent/folder/socket";
  const absl::StatusOr<BoundSockets> bound = Bind(address);
  EXPECT_EQ(bound.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(bound.status().message().find(address.unix_path),
            absl::string_view::npos);
}

TEST(Bind, APrivateSocketIsInAFolderOfItsOwnThatGoesWithIt) {
  ListenAddress address;
  address.unix_path = "-";
  const absl::StatusOr<BoundSockets> bound = Bind(address);
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_EQ(bound->listeners.size(), 1u);
  EXPECT_EQ(access(bound->unix_path.c_str(), F_OK), 0);
  bound->RemoveUnixSocket();
  EXPECT_NE(access(bound->private_folder.c_str(), F_OK), 0);
}

TEST(Bind, ASocketThatNobodyListensOnIsReplacedAndALiveOneIsNot) {
  const nbdtest::TempDir folder;
  ListenAddress address;
  address.unix_path = folder.path() + "/nbd.sock";
  {
    const absl::StatusOr<BoundSockets> left_behind = Bind(address);
    ASSERT_TRUE(left_behind.ok()) << left_behind.status();
  }
  const absl::StatusOr<BoundSockets> bound = Bind(address);
  ASSERT_TRUE(bound.ok()) << bound.status();
  ASSERT_TRUE(bound->Listen().ok());
  EXPECT_FALSE(Bind(address).ok());
  bound->RemoveUnixSocket();
}

TEST(Bind, ASocketThatIsBoundIsNeverTakenForOneThatWasLeftOver) {
  const nbdtest::TempDir folder;
  ListenAddress address;
  address.unix_path = folder.path() + "/nbd.sock";
  const absl::StatusOr<BoundSockets> bound = Bind(address);
  ASSERT_TRUE(bound.ok()) << bound.status();
  const absl::StatusOr<BoundSockets> other = Bind(address);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(access(address.unix_path.c_str(), F_OK), 0);
  bound->RemoveUnixSocket();
  EXPECT_NE(access(address.unix_path.c_str(), F_OK), 0);
}

// A user who may write to the folder may put something else where the socket
// was; nobody is given a file that way, and nothing of theirs is removed.
TEST(Bind, GivesAwayAndRemovesTheSocketAndNothingThatIsInItsPlace) {
  if (geteuid() != 0) GTEST_SKIP() << "giving files away needs root";
  constexpr uid_t kSomebody = 12345;
  const auto owner = [](const std::string& path) {
    struct stat st = {};
    EXPECT_EQ(lstat(path.c_str(), &st), 0) << path;
    return st.st_uid;
  };
  const nbdtest::TempDir folder;
  ListenAddress address;
  address.unix_path = folder.path() + "/nbd.sock";
  const std::string precious = folder.path() + "/precious";
  const absl::StatusOr<BoundSockets> bound = Bind(address);
  ASSERT_TRUE(bound.ok()) << bound.status();
  bound->GiveTo(kSomebody, kSomebody);
  EXPECT_EQ(owner(address.unix_path), kSomebody);

  std::ofstream(precious) << "precious";
  bound->RemoveUnixSocket();
  ASSERT_EQ(symlink(precious.c_str(), address.unix_path.c_str()), 0);
  bound->GiveTo(kSomebody, kSomebody);
  EXPECT_EQ(owner(precious), geteuid());
  EXPECT_EQ(owner(address.unix_path), geteuid());
  bound->RemoveUnixSocket();
  ASSERT_EQ(unlink(address.unix_path.c_str()), 0);
  ASSERT_EQ(link(precious.c_str(), address.unix_path.c_str()), 0);
  bound->GiveTo(kSomebody, kSomebody);
  EXPECT_EQ(owner(precious), geteuid());
  bound->RemoveUnixSocket();
  ASSERT_EQ(unlink(address.unix_path.c_str()), 0);
}

}  // namespace
}  // namespace nbdinetd
