#include "base/datagram_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace nbdinetd {
namespace {

// A reader that is there, and reads when the test wants it to.
class DatagramSocketTest : public testing::Test {
 protected:
  DatagramSocketTest() {
    // Whatever waits here does so for ever, if it is wrong: then the program is ended.
    alarm(60);
    char folder[] = "/tmp/nbdinetd-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/socket";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), path_.size());
    reader_.Reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(reader_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~DatagramSocketTest() override {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
    alarm(0);
  }

  std::string Received() {
    char buffer[100];
    const ssize_t n = recv(reader_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    return n < 0 ? "nothing" : std::string(buffer, static_cast<size_t>(n));
  }

  std::string folder_;
  std::string path_;
  UniqueFd reader_;
};

TEST_F(DatagramSocketTest, SendsOneDatagramEach) {
  const UniqueFd socket = ConnectDatagramSocket(path_);
  ASSERT_TRUE(socket.valid());
  EXPECT_TRUE(SendDatagram(socket.get(), "one"));
  EXPECT_TRUE(SendDatagram(socket.get(), "two\n"));
  EXPECT_EQ(Received(), "one");
  EXPECT_EQ(Received(), "two\n");
  EXPECT_EQ(Received(), "nothing");
}

TEST_F(DatagramSocketTest, AReaderThatHasStoppedStopsNobodyForLong) {
  const UniqueFd socket = ConnectDatagramSocket(path_);
  ASSERT_TRUE(socket.valid());
  int sent = 0;
  while (SendDatagram(socket.get(), std::string(1000, 'x'))) ++sent;
  EXPECT_GT(sent, 0);
  // Once it reads again it hears the next.
  while (Received() != "nothing") {
  }
  EXPECT_TRUE(SendDatagram(socket.get(), "again"));
  EXPECT_EQ(Received(), "again");
}

TEST_F(DatagramSocketTest, AReaderThatHasGoneIsAnErrorAndNoSignal) {
  const UniqueFd socket = ConnectDatagramSocket(path_);
  reader_.Reset();
  EXPECT_FALSE(SendDatagram(socket.get(), "one"));
}

TEST_F(DatagramSocketTest, WhatIsNoAddressLeadsNowhere) {
  for (const std::string& name :
       {std::string(), std::string("/"), std::string("@"), std::string("relative"),
        folder_ + "/missing", "/" + std::string(107, 'n'), "@" + std::string(200, 'n')}) {
    EXPECT_FALSE(ConnectDatagramSocket(name).valid()) << name;
  }
}

}  // namespace
}  // namespace nbdinetd
