// Which rules let which peers in.
#include "server/access.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/exit_status.h"
#include "base/unique_fd.h"
#include "server/peer.h"

namespace nbdinetd {
namespace {

using Family = PeerIdentity::Family;

PeerIdentity Ip(const char* text) {
  PeerIdentity peer;
  if (inet_pton(AF_INET, text, peer.address.data()) == 1) {
    peer.family = Family::kIpv4;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, peer.address.data()), 1) << text;
    peer.family = Family::kIpv6;
  }
  return peer;
}

PeerIdentity Unix(uint32_t uid, std::vector<uint32_t> gids) {
  PeerIdentity peer;
  peer.family = Family::kUnix;
  peer.uid = uid;
  peer.gids = std::move(gids);
  return peer;
}

PeerIdentity Vsock(uint32_t cid) {
  PeerIdentity peer;
  peer.family = Family::kVsock;
  peer.cid = cid;
  return peer;
}

// Rules as they would be on the command line: "allow=WHO", "deny=WHO".
AccessRules Rules(const std::vector<std::string>& options) {
  AccessRules rules;
  for (absl::string_view option : options) {
    const bool allow = absl::ConsumePrefix(&option, "allow=");
    EXPECT_TRUE(allow || absl::ConsumePrefix(&option, "deny=")) << option;
    const absl::Status status = rules.Add(
        allow ? AccessRules::Action::kAllow : AccessRules::Action::kDeny,
        option);
    EXPECT_TRUE(status.ok()) << status;
  }
  return rules;
}

// "" when the peer may connect, or else why not.
std::string Refusal(const std::vector<std::string>& options,
                    const PeerIdentity& peer) {
  return Rules(options).WhyRefused(peer).value_or("");
}

std::string WrongBecause(const std::string& who) {
  AccessRules rules;
  const absl::Status status = rules.Add(AccessRules::Action::kAllow, who);
  EXPECT_EQ(ExitStatusOf(status), ExitStatus::kUsage) << who;
  return std::string(status.message());
}

TEST(AccessRules, NamesThatAreTrustedArentLookedUp) {
  AccessRules rules;
  const auto add = [&rules](const char* who) {
    return rules
        .Add(AccessRules::Action::kAllow, who, AccessRules::Names::kTrust)
        .ok();
  };
  EXPECT_TRUE(add("uid:no-such-user,gid:no-such-group,uid:0"));
  EXPECT_FALSE(add("uid:"));
  EXPECT_FALSE(add("vsock:name"));
  EXPECT_FALSE(add("uid:4294967295"));
}

TEST(AccessRules, WithoutRulesEverybodyMayConnect) {
  EXPECT_TRUE(AccessRules().empty());
  for (const PeerIdentity& peer : {Ip("192.0.2.7"), Ip("2001:db8::1"),
                                   Unix(0, {0}), Vsock(3), PeerIdentity()}) {
    EXPECT_EQ(Refusal({}, peer), "");
  }
  EXPECT_EQ(AccessRules().WhyRefused(-1), std::nullopt);
}

TEST(AccessRules, AnAddressIsThatAddress) {
  EXPECT_EQ(Refusal({"allow=192.0.2.7"}, Ip("192.0.2.7")), "");
  EXPECT_EQ(Refusal({"allow=192.0.2.7"}, Ip("192.0.2.6")),
            "no --allow for IPv4 clients matches it");
  EXPECT_EQ(Refusal({"deny=2001:db8::1"}, Ip("2001:db8::1")),
            "by --deny=2001:db8::1");
  EXPECT_EQ(Refusal({"deny=2001:db8::1"}, Ip("2001:db8::2")), "");
}

TEST(AccessRules, ANetworkIsItsPrefix) {
  struct {
    const char* network;
    const char* inside;
    const char* outside;
  } const kRows[] = {
      {"192.0.2.0/24", "192.0.2.255", "192.0.3.0"},
      {"192.0.2.128/25", "192.0.2.128", "192.0.2.127"},
      {"10.0.0.0/8", "10.255.255.255", "11.0.0.0"},
      {"172.16.0.0/12", "172.31.255.255", "172.32.0.0"},
      {"192.0.2.7/32", "192.0.2.7", "192.0.2.6"},
      {"128.0.0.0/1", "128.0.0.0", "127.255.255.255"},
      // The bits behind the prefix don't matter.
      {"192.0.2.7/24", "192.0.2.1", "192.0.3.7"},
      {"2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"},
      {"2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"},
      {"fe80::/10", "febf::1", "fec0::1"},
      {"2001:db8::1/128", "2001:db8::1", "2001:db8::"},
  };
  for (const auto& row : kRows) {
    const std::string allow = std::string("allow=") + row.network;
    const std::string deny = std::string("deny=") + row.network;
    EXPECT_EQ(Refusal({allow}, Ip(row.inside)), "") << row.network;
    EXPECT_NE(Refusal({allow}, Ip(row.outside)), "") << row.network;
    EXPECT_NE(Refusal({deny}, Ip(row.inside)), "") << row.network;
    EXPECT_EQ(Refusal({deny}, Ip(row.outside)), "") << row.network;
  }
  EXPECT_EQ(Refusal({"allow=0.0.0.0/0"}, Ip("255.255.255.255")), "");
  EXPECT_NE(Refusal({"allow=0.0.0.0/0"}, Ip("::")), "");
  EXPECT_EQ(Refusal({"allow=::/0"}, Ip("ffff::")), "");
  EXPECT_NE(Refusal({"allow=::/0"}, Ip("0.0.0.0")), "");
}

TEST(AccessRules, AMappedAddressIsTheIpv4Address) {
  EXPECT_EQ(Refusal({"allow=::ffff:192.0.2.7"}, Ip("192.0.2.7")), "");
  EXPECT_NE(Refusal({"allow=::ffff:192.0.2.7"}, Ip("192.0.2.8")), "");
  EXPECT_EQ(Refusal({"allow=::ffff:192.0.2.0/120"}, Ip("192.0.2.99")), "");
  EXPECT_NE(Refusal({"allow=::ffff:192.0.2.0/120"}, Ip("192.0.3.1")), "");
  EXPECT_EQ(Refusal({"deny=::ffff:0:0/96"}, Ip("192.0.2.7")),
            "by --deny=::ffff:0:0/96");
  // Not the prefix that was meant: it would hold for no IPv4 peer.
  EXPECT_NE(WrongBecause("::ffff:10.0.0.0/8").find("96"), std::string::npos);
  EXPECT_NE(WrongBecause("::ffff:0:0/95").find("96"), std::string::npos);
}

TEST(AccessRules, TheMostSpecificOneHoldsInAnyOrder) {
  const std::vector<std::vector<std::string>> kBoth = {
      {"allow=192.0.2.0/24", "deny=192.0.2.7"},
      {"deny=192.0.2.7", "allow=192.0.2.0/24"}};
  for (const auto& rules : kBoth) {
    EXPECT_EQ(Refusal(rules, Ip("192.0.2.7")), "by --deny=192.0.2.7");
    EXPECT_EQ(Refusal(rules, Ip("192.0.2.8")), "");
    EXPECT_EQ(Refusal(rules, Ip("192.0.3.8")),
              "no --allow for IPv4 clients matches it");
  }
  for (const auto& rules : std::vector<std::vector<std::string>>{
           {"deny=192.0.2.0/24", "allow=192.0.2.7"},
           {"allow=192.0.2.7", "deny=192.0.2.0/24"}}) {
    EXPECT_EQ(Refusal(rules, Ip("192.0.2.7")), "");
    EXPECT_EQ(Refusal(rules, Ip("192.0.2.8")), "by --deny=192.0.2.0/24");
    // Not denied by anything, but not allowed either, where some are.
    EXPECT_NE(Refusal(rules, Ip("192.0.3.8")), "");
  }
  const std::vector<std::string> nested = {
      "allow=10.0.0.0/8", "deny=10.1.0.0/16", "allow=10.1.2.0/24",
      "deny=10.1.2.3"};
  EXPECT_EQ(Refusal(nested, Ip("10.9.9.9")), "");
  EXPECT_EQ(Refusal(nested, Ip("10.1.9.9")), "by --deny=10.1.0.0/16");
  EXPECT_EQ(Refusal(nested, Ip("10.1.2.9")), "");
  EXPECT_EQ(Refusal(nested, Ip("10.1.2.3")), "by --deny=10.1.2.3");
}

TEST(AccessRules, OfEqualOnesDenyHolds) {
  EXPECT_NE(Refusal({"allow=192.0.2.7", "deny=192.0.2.7"}, Ip("192.0.2.7")),
            "");
  EXPECT_NE(Refusal({"deny=192.0.2.7/32", "allow=192.0.2.7"}, Ip("192.0.2.7")),
            "");
  EXPECT_NE(Refusal({"allow=gid:5", "deny=gid:6"}, Unix(1, {5, 6})), "");
  EXPECT_NE(Refusal({"deny=anyipv4", "allow=0.0.0.0/0"}, Ip("192.0.2.7")), "");
  EXPECT_NE(Refusal({"allow=any", "deny=any"}, Vsock(3)), "");
}

TEST(AccessRules, AFamilyThatIsNotNamedIsRefused) {
  for (const char* rule : {"allow=192.0.2.7", "deny=192.0.2.7"}) {
    EXPECT_EQ(Refusal({rule}, Ip("2001:db8::1")),
              "no --allow or --deny names IPv6 clients");
    EXPECT_EQ(Refusal({rule}, Unix(0, {0})),
              "no --allow or --deny names Unix clients");
    EXPECT_EQ(Refusal({rule}, Vsock(2)),
              "no --allow or --deny names vsock clients");
  }
  EXPECT_EQ(Refusal({"deny=uid:7"}, Ip("127.0.0.1")),
            "no --allow or --deny names IPv4 clients");
  EXPECT_EQ(Refusal({"deny=uid:7"}, Unix(8, {7})), "");
  EXPECT_NE(Refusal({"allow=unix:"}, Vsock(2)), "");
}

TEST(AccessRules, WhoCannotBeIdentifiedIsRefusedByAnyRule) {
  for (const char* rule : {"allow=any", "deny=192.0.2.7", "allow=unix:"}) {
    EXPECT_TRUE(absl::StrContains(Refusal({rule}, PeerIdentity()),
                                  "can't be identified"));
  }
}

TEST(AccessRules, UsersGroupsAndAnyUnixClient) {
  EXPECT_EQ(Refusal({"allow=uid:1000"}, Unix(1000, {100})), "");
  EXPECT_NE(Refusal({"allow=uid:1000"}, Unix(100, {1000})), "");
  EXPECT_EQ(Refusal({"allow=gid:100"}, Unix(1, {7, 100})), "");
  EXPECT_NE(Refusal({"allow=gid:100"}, Unix(100, {7})), "");
  EXPECT_EQ(Refusal({"allow=unix:"}, Unix(4000000000, {})), "");
  // A user is more specific than a group, a group than all.
  EXPECT_EQ(Refusal({"allow=gid:6", "deny=uid:9"}, Unix(9, {6})),
            "by --deny=uid:9");
  EXPECT_EQ(Refusal({"deny=gid:6", "allow=uid:9"}, Unix(9, {6})), "");
  EXPECT_EQ(Refusal({"allow=unix:", "deny=gid:6"}, Unix(9, {6})),
            "by --deny=gid:6");
  EXPECT_EQ(Refusal({"deny=unix:", "allow=gid:6"}, Unix(9, {6})), "");
}

TEST(AccessRules, NamesAreLookedUpAndNumbersAreNot) {
  EXPECT_EQ(Refusal({"allow=uid:root"}, Unix(0, {5})), "");
  EXPECT_EQ(Refusal({"allow=gid:root"}, Unix(5, {0})), "");
  EXPECT_NE(Refusal({"allow=uid:root"}, Unix(1, {0})), "");
  // Nobody need have that number.
  EXPECT_EQ(Refusal({"allow=uid:4123456789"}, Unix(4123456789, {0})), "");
}

TEST(AccessRules, VsockByItsCid) {
  EXPECT_EQ(Refusal({"allow=vsock:3"}, Vsock(3)), "");
  EXPECT_NE(Refusal({"allow=vsock:3"}, Vsock(4)), "");
  EXPECT_EQ(Refusal({"allow=vsock:", "deny=vsock:3"}, Vsock(4)), "");
  EXPECT_EQ(Refusal({"deny=vsock:3", "allow=vsock:"}, Vsock(3)),
            "by --deny=vsock:3");
}

TEST(AccessRules, ListsAndWordsOfNbdkits) {
  const std::vector<std::string> rules = {"allow=127.0.0.1,::1", "deny=all"};
  EXPECT_EQ(Refusal(rules, Ip("127.0.0.1")), "");
  EXPECT_EQ(Refusal(rules, Ip("::1")), "");
  EXPECT_EQ(Refusal(rules, Ip("127.0.0.2")), "by --deny=all");
  EXPECT_EQ(Refusal(rules, Unix(0, {0})), "by --deny=all");
  // What names one family is more specific than what names all.
  EXPECT_EQ(Refusal({"allow=anyipv6", "deny=all"}, Ip("2001:db8::1")), "");
  EXPECT_EQ(Refusal({"allow=unix:", "deny=all"}, Unix(1, {1})), "");
  EXPECT_EQ(Refusal({"deny=0.0.0.0/0", "allow=all"}, Ip("192.0.2.7")),
            "by --deny=0.0.0.0/0");
  EXPECT_NE(Refusal({"allow=anyipv6"}, Ip("192.0.2.7")), "");
  EXPECT_EQ(Refusal({"allow=allunix,anyvsock"}, Unix(1, {1})), "");
  EXPECT_EQ(Refusal({"allow=allunix,anyvsock"}, Vsock(1)), "");
  EXPECT_EQ(Refusal({"allow=allipv4"}, Ip("192.0.2.7")), "");
}

TEST(AccessRules, WhatIsWrongIsSaid) {
  EXPECT_EQ(WrongBecause("example.com"),
            "--allow=\"example.com\": this is no address, network, uid:USER, "
            "gid:GROUP, unit:UNIT, unix:, vsock: or vsock:CID");
  for (const char* who :
       {"", "192.0.2", "192.0.2.7.8", "192.0.2.256", "2001:db8", "::1::",
        "[::1]", "192.0.2.7:10809", "anything", "any ", "unix", "tcp:", " ::1",
        "0x7f.0.0.1", "127.0.0.1,", ",::1", "192.0.2.0-192.0.2.9"}) {
    EXPECT_TRUE(absl::StrContains(WrongBecause(who), "this is no address"))
        << who;
  }
  for (const char* who : {"192.0.2.0/33", "192.0.2.0/", "192.0.2.0/-1",
                          "192.0.2.0/ 8", "192.0.2.0/255.255.255.0"}) {
    EXPECT_TRUE(absl::StrContains(WrongBecause(who),
                                  "an IPv4 network's prefix is a number from "
                                  "0 to 32"))
        << who;
  }
  EXPECT_TRUE(absl::StrContains(WrongBecause("2001:db8::/129"), "0 to 128"));
  EXPECT_TRUE(absl::StrContains(WrongBecause("fe80::1%eth0"), "%"));
  for (const char* who : {"uid:", "uid:no-such-user-here", "uid:4294967295",
                          "uid:-1", "uid:99999999999"}) {
    EXPECT_TRUE(absl::StrContains(WrongBecause(who), "no such user")) << who;
  }
  EXPECT_TRUE(
      absl::StrContains(WrongBecause("gid:no-such-group"), "no such group"));
  EXPECT_TRUE(absl::StrContains(WrongBecause("unix:/run/x"), "no path"));
  EXPECT_TRUE(absl::StrContains(WrongBecause("pid:1"), "process ids"));
  for (const char* who : {"vsock:host", "vsock:-1", "vsock:4294967296"}) {
    EXPECT_TRUE(absl::StrContains(WrongBecause(who), "a CID is a number"));
  }
}

TEST(AccessRules, AUnitIsMoreThanAUser) {
  PeerIdentity peer = Unix(7, {8});
  peer.unit = "libvirt-qemu.scope";
  EXPECT_EQ(Refusal({"allow=unit:libvirt-*.scope"}, peer), "");
  EXPECT_EQ(Refusal({"allow=unit:*.scope", "deny=uid:7"}, peer), "");
  EXPECT_EQ(Refusal({"deny=unit:*.scope", "allow=uid:7"}, peer),
            "by --deny=unit:*.scope");
  EXPECT_NE(Refusal({"allow=unit:*.service"}, peer), "");
  // Neither pattern says more than the other one.
  EXPECT_EQ(Refusal({"allow=unit:libvirt-*.scope", "deny=unit:lib*"}, peer),
            "by --deny=unit:lib*");
  peer.unit = "";
  EXPECT_NE(Refusal({"allow=unit:*"}, peer), "");
  // Whether the rule is about the peer is unknown.
  peer.unit.reset();
  peer.why_no_unit = "no kernel";
  for (const char* rule : {"allow=uid:7", "deny=unit:x.service"}) {
    EXPECT_EQ(Refusal({"deny=unit:y.service", rule}, peer),
              "its unit is unknown (no kernel), and --allow or --deny names "
              "one");
  }
  EXPECT_EQ(Refusal({"deny=unit:y.service", "allow=anyipv4"}, Ip("192.0.2.7")),
            "");
}

TEST(AccessRules, WhatTlsTellsIsntKnownYet) {
  for (const char* who : {"tls:CN=a", "issuer:CN=a", "psk:alice"}) {
    EXPECT_TRUE(absl::StrContains(WrongBecause(who), "--rules=FILE")) << who;
  }
}

TEST(AccessRules, InWords) {
  EXPECT_TRUE(AccessRules().InWords().empty());
  EXPECT_EQ(
      absl::StrJoin(Rules({"allow=192.0.2.9/24", "deny=192.0.2.7",
                           "deny=2001:DB8::/32,2001:db8::1", "allow=uid:0",
                           "deny=gid:5", "allow=vsock:,vsock:3"})
                        .InWords(),
                    "\n"),
      "would let in IPv4 clients in 192.0.2.0/24 (--allow=192.0.2.9/24)\n"
      "would refuse the IPv4 client 192.0.2.7 (--deny=192.0.2.7)\n"
      "would refuse other IPv4 clients\n"
      "would refuse IPv6 clients in 2001:db8::/32 (--deny=2001:DB8::/32)\n"
      "would refuse the IPv6 client 2001:db8::1 (--deny=2001:db8::1)\n"
      "would let in other IPv6 clients\n"
      "would let in Unix clients of user 0 (--allow=uid:0)\n"
      "would refuse Unix clients of group 5 (--deny=gid:5)\n"
      "would refuse other Unix clients\n"
      "would let in any vsock client (--allow=vsock:)\n"
      "would let in the vsock client 3 (--allow=vsock:3)\n"
      "would refuse clients that can't be identified, such as pipes\n"
      "of several rules that match, the most specific one holds, and of equal "
      "ones --deny");
  EXPECT_EQ(Rules({"allow=uid:0"}).InWords()[0],
            "would refuse IPv4 clients, since no rule names them");
}

TEST(IdentifyPeer, OfASocketPairAndOfWhatIsNoSocket) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  const PeerIdentity peer = IdentifyPeer(ours.get(), PeerGroups::kAll);
  EXPECT_EQ(peer.family, Family::kUnix);
  EXPECT_EQ(peer.uid, getuid());
  ASSERT_FALSE(peer.gids.empty());
  EXPECT_EQ(peer.gids[0], getgid());
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd input(ends[0]), output(ends[1]);
  EXPECT_EQ(IdentifyPeer(input.get(), PeerGroups::kAll).family,
            Family::kUnknown);
  const UniqueFd lone(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_EQ(IdentifyPeer(lone.get(), PeerGroups::kAll).family,
            Family::kUnknown);
}

}  // namespace
}  // namespace nbdinetd
