// The unit of a peer, by what the kernel says of its process.
#include "server/peer_unit.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

std::string Unit(const std::string& cgroups) {
  const absl::StatusOr<std::string> unit = UnitOfCgroups(cgroups);
  return unit.ok() ? *unit : "?";
}

TEST(UnitOfCgroups, TheFirstUnitBelowTheSlices) {
  EXPECT_EQ(Unit("0::/system.slice/qemu.service\n"), "qemu.service");
  EXPECT_EQ(Unit("0::/init.scope\n"), "init.scope");
  EXPECT_EQ(Unit("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/"
                 "emulator\n"),
            "machine-qemu\\x2d1\\x2dvm.scope");
  EXPECT_EQ(Unit("0::/a.slice/a-b.slice/x@1.service/payload\n"), "x@1.service");
  EXPECT_EQ(Unit("1:name=systemd:/x\n0::/system.slice/y.service\n"),
            "y.service");
  EXPECT_EQ(Unit("0::/system.slice/_cgroup.service"), "cgroup.service");
}

// A user's own service manager names what is below it.
TEST(UnitOfCgroups, AUserCantChooseTheUnit) {
  EXPECT_EQ(Unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/"
                 "libvirt-qemu.scope\n"),
            "user@1000.service");
  EXPECT_EQ(Unit("0::/system.slice/x.service/y.service\n"), "x.service");
}

TEST(UnitOfCgroups, InNoUnit) {
  EXPECT_EQ(Unit("0::/\n"), "");
  EXPECT_EQ(Unit("0::/user.slice\n"), "");
  EXPECT_EQ(Unit("0::/docker/x.service\n"), "");
}

TEST(UnitOfCgroups, UnknownIfItIsElsewhere) {
  EXPECT_EQ(Unit("0::/../system.slice/x.service\n"), "?");
  EXPECT_EQ(Unit("0::/../x.service\n"), "?");
  EXPECT_EQ(Unit("4:memory:/system.slice/x.service\n"), "?");
  // cgroup v1, beside a unified hierarchy that nobody uses.
  EXPECT_EQ(Unit("1:name=systemd:/system.slice/x.service\n0::/\n"), "?");
  EXPECT_EQ(Unit("0::/\n1:name=systemd:/user.slice\n"), "?");
  EXPECT_EQ(Unit("1:name=systemd:/\n0::/\n"), "");
  EXPECT_EQ(Unit(""), "?");
}

// A new unit may have the name, and isn't the one of this process.
TEST(UnitOfCgroups, UnknownIfItIsDeleted) {
  EXPECT_EQ(Unit("0::/system.slice/x.service (deleted)\n"), "?");
  EXPECT_EQ(Unit("0::/system.slice/x.service/sub (deleted)\n"), "?");
}

TEST(ProcessOfPidfd, IsZeroForOneThatIsGone) {
  EXPECT_EQ(ProcessOfPidfd("pos:\t0\nflags:\t02\nPid:\t1234\nNSpid:\t1234\n"),
            1234);
  EXPECT_EQ(ProcessOfPidfd("pos:\t0\nPid:\t-1\n"), 0);
  EXPECT_EQ(ProcessOfPidfd("pos:\t0\nPid:\t0\n"), 0);
  EXPECT_EQ(ProcessOfPidfd("pos:\t0\n"), 0);
}

TEST(UnitOfPeer, OfThisProcessAndOfOneThatHasEnded) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  const absl::StatusOr<std::string> unit = UnitOfPeer(ours.get());
  if (!unit.ok() && absl::StrContains(unit.status().message(), "Linux 6.5")) {
    GTEST_SKIP() << unit.status();
  }
  // It may be outside of this cgroup namespace, but its process is there.
  EXPECT_FALSE(absl::StrContains(unit.status().message(), "ended"));
  const pid_t child = fork();
  if (child == 0) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) _exit(1);
    // The parent gets an end whose peer is this process.
    char byte = 0;
    iovec data = {&byte, 1};
    alignas(cmsghdr) char buffer[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = buffer;
    message.msg_controllen = sizeof(buffer);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    *reinterpret_cast<int*>(CMSG_DATA(header)) = pair[0];
    _exit(sendmsg(theirs.get(), &message, 0) == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  char byte;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char buffer[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = buffer;
  message.msg_controllen = sizeof(buffer);
  ASSERT_EQ(recvmsg(ours.get(), &message, 0), 1);
  const UniqueFd gone(
      *reinterpret_cast<int*>(CMSG_DATA(CMSG_FIRSTHDR(&message))));
  const absl::StatusOr<std::string> none = UnitOfPeer(gone.get());
  ASSERT_FALSE(none.ok());
  EXPECT_TRUE(absl::StrContains(none.status().message(), "has ended"))
      << none.status();
}

}  // namespace
}  // namespace nbdinetd
