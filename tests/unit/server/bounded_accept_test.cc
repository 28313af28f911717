#include "server/bounded_accept.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>

namespace nbdinetd {
namespace {

// A listening socket that blocks, on an address that the kernel has chosen.
class BoundedAcceptTest : public testing::Test {
 protected:
  BoundedAcceptTest()
      : socket_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    address_.sun_family = AF_UNIX;
    EXPECT_EQ(bind(socket_.get(), Address(), sizeof(sa_family_t)), 0);
    length_ = sizeof(address_);
    EXPECT_EQ(getsockname(socket_.get(), Address(), &length_), 0);
    EXPECT_EQ(listen(socket_.get(), 1), 0);
  }

  sockaddr* Address() { return reinterpret_cast<sockaddr*>(&address_); }

  sockaddr_un address_ = {};
  socklen_t length_;
  const UniqueFd socket_;
};

TEST_F(BoundedAcceptTest, EndsWithoutAConnectionThoughTheSocketBlocks) {
  const BoundedAccept bounded;
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(bounded.Accept(socket_.get()).valid());
    EXPECT_EQ(errno, EAGAIN);
  }
  itimerval timer;
  ASSERT_EQ(getitimer(ITIMER_REAL, &timer), 0);
  EXPECT_EQ(timer.it_value.tv_usec, 0);
}

TEST_F(BoundedAcceptTest, AcceptsAConnection) {
  const UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(client.get(), Address(), length_), 0);
  const BoundedAccept bounded;
  const UniqueFd connection = bounded.Accept(socket_.get());
  ASSERT_TRUE(connection.valid());
  EXPECT_NE(fcntl(connection.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(BoundedAcceptTest, OtherErrorsStay) {
  const BoundedAccept bounded;
  EXPECT_FALSE(bounded.Accept(-1).valid());
  EXPECT_EQ(errno, EBADF);
}

TEST(BoundedAccept, LeavesTheSignalAsItWas) {
  struct sigaction before, after;
  sigaction(SIGALRM, nullptr, &before);
  { const BoundedAccept bounded; }
  sigaction(SIGALRM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

}  // namespace
}  // namespace nbdinetd
