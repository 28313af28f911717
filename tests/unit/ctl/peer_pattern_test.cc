#include "ctl/peer_pattern.h"

#include <gtest/gtest.h>

namespace nbdinetd::ctl {
namespace {

TEST(PeerPattern, AnAddressMeansAllItsPorts) {
  EXPECT_TRUE(IsPeerMeant("192.0.2.7", "192.0.2.7:40000", ""));
  EXPECT_TRUE(IsPeerMeant("192.0.2.7:40000", "192.0.2.7:40000", ""));
  EXPECT_FALSE(IsPeerMeant("192.0.2.7:40001", "192.0.2.7:40000", ""));
  EXPECT_FALSE(IsPeerMeant("192.0.2.70", "192.0.2.7:40000", ""));
  EXPECT_FALSE(IsPeerMeant("192.0.2", "192.0.2.7:40000", ""));
  EXPECT_FALSE(IsPeerMeant("", "192.0.2.7:40000", ""));
}

TEST(PeerPattern, AnIpv6AddressMayBeSpelledInAnyWay) {
  const char* const peer = "[2001:db8::7]:40000";
  EXPECT_TRUE(IsPeerMeant("2001:db8::7", peer, ""));
  EXPECT_TRUE(IsPeerMeant("[2001:db8::7]", peer, ""));
  EXPECT_TRUE(IsPeerMeant("2001:0DB8:0:0::7", peer, ""));
  EXPECT_TRUE(IsPeerMeant("[2001:0DB8:0:0::7]:40000", peer, ""));
  EXPECT_FALSE(IsPeerMeant("[2001:0DB8:0:0::7]:40001", peer, ""));
  EXPECT_FALSE(IsPeerMeant("2001:db8::", peer, ""));
}

TEST(PeerPattern, AUnixPeerIsMeantByEachOfItsParts) {
  const char* const peer = "unix:pid=12,uid=1000,gid=5";
  EXPECT_TRUE(IsPeerMeant(peer, peer, ""));
  EXPECT_TRUE(IsPeerMeant("unix:uid=1000", peer, ""));
  EXPECT_TRUE(IsPeerMeant("unix:pid=12", peer, ""));
  EXPECT_FALSE(IsPeerMeant("unix:uid=100", peer, ""));
  EXPECT_FALSE(IsPeerMeant("unix", peer, ""));
}

TEST(PeerPattern, AnIdentityIsMeantAsAWhole) {
  EXPECT_TRUE(IsPeerMeant("CN=build1", "192.0.2.7:1", "CN=build1"));
  EXPECT_FALSE(IsPeerMeant("CN=build", "192.0.2.7:1", "CN=build1"));
  EXPECT_TRUE(IsPeerMeant("vsock:3", "vsock:3:99", ""));
}

}  // namespace
}  // namespace nbdinetd::ctl
