// Which lines of the rules are about a client, and what they let it do.
// tests/system/rules_table_test.py has the same with real clients.
#include "access/client_rules.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "access/asked_client.h"
#include "base/exit_status.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

// A client by its identities, as --as takes them.
AskedClient Client(const std::vector<std::string>& words) {
  AskedClient client;
  for (const std::string& word : words) {
    const absl::Status status = client.Add(word);
    EXPECT_TRUE(status.ok()) << word << ": " << status;
  }
  return client;
}

ClientRules Rules(const std::string& content, const AskedClient& client) {
  absl::StatusOr<ClientRules> rules =
      ClientRules::Parse(content, "rules", client.peer);
  EXPECT_TRUE(rules.ok()) << rules.status();
  return *std::move(rules);
}

// How the client may use an export: "read-only 2" by line 2; "" not at all.
std::string Use(const std::string& content,
                const std::vector<std::string>& words,
                const std::string& name) {
  const AskedClient client = Client(words);
  const ClientRules rules = Rules(content, client);
  const auto decision = rules.For(client.tls).For(name);
  if (!decision.has_value()) return "";
  return absl::StrCat(InWords(*decision->grant.mode), " ", decision->line);
}

std::string WrongBecause(const std::string& content) {
  const auto rules = ClientRules::Parse(content, "rules", PeerIdentity());
  EXPECT_EQ(ExitStatusOf(rules.status()), ExitStatus::kConfig) << content;
  return std::string(rules.status().message());
}

constexpr char kExample[] =
    "tls:CN=build-*,OU=CI,*     golden              ro\n"
    "psk:alice                  alice-*  scratch    rw\n"
    "192.0.2.0/24               golden              ro  cow\n"
    "unit:libvirt-*.scope       vm-*                rw  exclusive=takeover\n"
    "*                          -\n";

TEST(ClientRules, TheMostSpecificWhoHolds) {
  EXPECT_EQ(Use(kExample, {"tls:CN=build-7,OU=CI,O=x"}, "golden"),
            "read-only 1");
  EXPECT_EQ(Use(kExample, {"192.0.2.7", "tls:CN=build-7,OU=CI"}, "golden"),
            "read-only 1");
  EXPECT_EQ(Use(kExample, {"192.0.2.7"}, "golden"), "copy-on-write 3");
  EXPECT_EQ(Use(kExample, {"192.0.2.7", "tls:CN=other"}, "golden"),
            "copy-on-write 3");
  EXPECT_EQ(Use(kExample, {"psk:alice"}, "alice-1"), "read-write 2");
  EXPECT_EQ(Use(kExample, {"psk:alice"}, "scratch"), "read-write 2");
  // What another line lets the same client use isn't added.
  EXPECT_EQ(Use(kExample, {"192.0.2.7", "psk:alice"}, "golden"), "");
  EXPECT_EQ(Use(kExample, {"unit:libvirt-qemu.scope"}, "vm-1"), "read-write 4");
  EXPECT_EQ(Use(kExample, {"unit:other.scope"}, "vm-1"), "");
  EXPECT_EQ(Use(kExample, {"198.51.100.1"}, "golden"), "");
}

TEST(ClientRules, TheOrderOfWhoFromMostToLeast) {
  const std::vector<std::string> everything = {
      "tls:CN=a", "tls:CN=*",       "tls:*",    "issuer:CN=ca",
      "issuer:*", "unit:x.service", "unit:x.*", "unit:*",
      "uid:7",    "gid:8",          "unix:",    "*"};
  AskedClient client =
      Client({"tls:CN=a", "issuer:CN=ca", "unit:x.service", "uid:7", "gid:8"});
  // In any order of the lines, the one that is the first here decides.
  for (size_t first = 0; first < everything.size(); ++first) {
    std::string forwards, backwards;
    for (size_t i = first; i < everything.size(); ++i) {
      const std::string line = absl::StrCat(everything[i], " e", i, " rw\n");
      forwards = absl::StrCat(forwards, line);
      backwards = absl::StrCat(line, backwards);
    }
    for (const std::string& content : {forwards, backwards}) {
      const ClientRules rules = Rules(content, client);
      const ClientGrants grants = rules.For(client.tls);
      for (size_t i = first; i < everything.size(); ++i) {
        EXPECT_EQ(grants.For(absl::StrCat("e", i)).has_value(), i == first)
            << everything[first] << " and e" << i;
      }
    }
  }
  EXPECT_EQ(Use("psk:a* x rw\npsk:alice y rw\n", {"psk:alice"}, "x"), "");
  EXPECT_EQ(Use("psk:al* x rw\npsk:a* y rw\n", {"psk:alice"}, "x"),
            "read-write 1");
  EXPECT_EQ(Use("192.0.2.7 x rw\n192.0.2.0/31 y rw\n", {"192.0.2.7"}, "y"), "");
  EXPECT_EQ(Use("anyipv4 x rw\nany y rw\n", {"192.0.2.7"}, "y"), "");
}

TEST(ClientRules, LinesOfTheSameWhoAddUp) {
  const std::string rules =
      "psk:alice golden ro\n"
      "psk:bob other rw\n"
      "psk:alice g* rw\n"
      "psk:alice golden rw\n";
  EXPECT_EQ(Use(rules, {"psk:alice"}, "golden"), "read-only 1");
  EXPECT_EQ(Use(rules, {"psk:alice"}, "green"), "read-write 3");
  EXPECT_EQ(Use(rules, {"psk:alice"}, "other"), "");
  // The first line of the file that names the export, with or without *.
  EXPECT_EQ(Use("* g* ro\n* golden rw\n", {"192.0.2.7"}, "golden"),
            "read-only 1");
  EXPECT_EQ(Use("* golden rw\n* g* ro\n", {"192.0.2.7"}, "golden"),
            "read-write 1");
  // Nothing is nothing, wherever it is.
  EXPECT_EQ(Use(rules + "psk:alice -\n", {"psk:alice"}, "golden"), "");
  EXPECT_EQ(Use("gid:5 x rw\ngid:6 -\n", {"gid:5", "gid:6"}, "x"), "");
}

// Neither of two patterns that match says more than the other one.
TEST(ClientRules, OfPatternsThatMatchOneForNothingHolds) {
  const auto both = [](const std::string& one, const std::string& other,
                       const std::vector<std::string>& who) {
    const std::string forwards = Use(one + other, who, "x");
    const std::string backwards = Use(other + one, who, "x");
    EXPECT_EQ(forwards.empty(), backwards.empty()) << one << other;
    return forwards.empty() ? "nothing" : "something";
  };
  // The longer one gives something, and loses all the same.
  EXPECT_STREQ(both("psk:*-of-the-house x rw\n", "psk:al* -\n",
                    {"psk:alice-of-the-house"}),
               "nothing");
  EXPECT_STREQ(both("tls:CN=build-*,O=Example x rw\n", "tls:*,O=E* -\n",
                    {"tls:CN=build-7,O=Example"}),
               "nothing");
  EXPECT_STREQ(both("unit:libvirt-qemu-*.scope x rw\n", "unit:*.scope -\n",
                    {"unit:libvirt-qemu-1.scope"}),
               "nothing");
  EXPECT_STREQ(
      both("issuer:CN=Test* x rw\n", "issuer:* -\n", {"issuer:CN=Test CA"}),
      "nothing");
  // What is equal to the client holds, however it is written.
  EXPECT_STREQ(both("psk:alice x rw\n", "psk:al* -\n", {"psk:alice"}),
               "something");
  EXPECT_STREQ(both("tls:CN=a\\,b x rw\n", "tls:CN=a* -\n", {"tls:CN=a\\2Cb"}),
               "something");
  EXPECT_STREQ(
      both("tls:CN=a\\,b x rw\n", "tls:cn=a\\2Cb -\n", {"tls:CN=a\\,b"}),
      "nothing");
  EXPECT_STREQ(
      both("issuer:CN=Test x rw\n", "issuer:* -\n", {"issuer:CN=Test"}),
      "something");
  // Networks lie in each other: the smaller one says more.
  EXPECT_STREQ(both("192.0.2.0/25 x rw\n", "192.0.2.0/24 -\n", {"192.0.2.7"}),
               "something");
}

TEST(ClientRules, AnEscapedByteCountsOnce) {
  const std::string rules = "tls:CN=\\61\\62* x ro\ntls:CN=abc* x rw\n";
  EXPECT_EQ(Use(rules, {"tls:CN=abcd"}, "x"), "read-write 2");
}

TEST(ClientRules, ASubjectIsWhatItsIssuerSays) {
  const std::string rules =
      "tls:CN=admin * rw\n"
      "issuer:CN=Lost* -\n"
      "\"issuer:CN=Lost and found\" public ro\n";
  EXPECT_EQ(Use(rules, {"tls:CN=admin", "issuer:CN=Good"}, "x"),
            "read-write 1");
  EXPECT_EQ(Use(rules, {"tls:CN=admin", "issuer:CN=Lost"}, "x"), "");
  EXPECT_EQ(Use(rules, {"tls:CN=admin"}, "x"), "read-write 1");
  // Its own line isn't for nothing, and the subject then says more.
  EXPECT_EQ(Use(rules, {"tls:CN=admin", "issuer:CN=Lost and found"}, "x"),
            "read-write 1");
  EXPECT_EQ(Use(rules, {"tls:CN=other", "issuer:CN=Lost and found"}, "public"),
            "read-only 3");
}

// A client that may lose something by its identity gets nothing without one.
TEST(ClientRules, NobodyChoosesBetweenLinesBySayingNothing) {
  const std::string taking =
      "psk:mallory -\npsk:alice x ro\n192.0.2.0/24 x rw\nunix: x rw\n";
  EXPECT_EQ(Use(taking, {"192.0.2.7", "psk:mallory"}, "x"), "");
  EXPECT_EQ(Use(taking, {"192.0.2.7"}, "x"), "");
  EXPECT_EQ(Use(taking, {"uid:7"}, "x"), "");
  EXPECT_EQ(Use(taking, {"192.0.2.7", "psk:bob"}, "x"), "read-write 3");
  EXPECT_EQ(Use(taking, {"192.0.2.7", "psk:alice"}, "x"), "read-only 2");
  EXPECT_EQ(Use(taking, {"192.0.2.7", "tls:CN=a"}, "x"), "read-write 3");
  const ClientRules rules = Rules(taking, Client({"192.0.2.7"}));
  EXPECT_TRUE(absl::StrContains(rules.For(TlsIdentity()).WhyNot(),
                                "line 1 of \"rules\" takes something"));
  EXPECT_TRUE(rules.gives_nothing(/*tls_is_possible=*/false));
  EXPECT_FALSE(rules.gives_nothing(/*tls_is_possible=*/true));
  // Lines that only give may be done without.
  EXPECT_EQ(Use("psk:alice x ro\n192.0.2.0/24 x rw\n", {"192.0.2.7"}, "x"),
            "read-write 2");
}

TEST(ClientRules, WarnsWhereTlsIsNoMust) {
  const auto warnings = [](const std::string& content, bool tls_is_certain) {
    return Rules(content, Client({"192.0.2.7"})).Warnings(tls_is_certain);
  };
  const std::string mixed = "* y ro\npsk:alice x ro\n";
  ASSERT_EQ(warnings(mixed, false).size(), 1u);
  EXPECT_TRUE(absl::StrContains(warnings(mixed, false)[0],
                                "\"rules\" line 2 is about TLS"));
  EXPECT_TRUE(warnings(mixed, true).empty());
  EXPECT_TRUE(warnings("psk:alice x ro\n* -\n", false).empty());
  EXPECT_TRUE(warnings("* x ro\n", false).empty());
  // A client without an identity gets nothing by the line about everybody.
  EXPECT_TRUE(warnings(mixed + "psk:bob -\n", false).empty());
  // The line about addresses may be about another client than this one.
  EXPECT_EQ(warnings("198.51.100.1 y ro\npsk:alice x ro\n", false).size(), 1u);
}

TEST(ClientRules, WhoHasNoLineGetsNothing) {
  EXPECT_EQ(Use("", {"192.0.2.7"}, "x"), "");
  EXPECT_EQ(Use("# nothing\n\n", {"192.0.2.7"}, "x"), "");
  EXPECT_EQ(Use("192.0.2.7 x rw\n", {"2001:db8::1"}, "x"), "");
  // A pipe, and what else the kernel tells nothing of.
  const auto rules = ClientRules::Parse("* x rw\nany y rw\npsk:a z rw\n",
                                        "rules", PeerIdentity());
  ASSERT_TRUE(rules.ok());
  EXPECT_TRUE(rules->For(TlsIdentity()).empty());
  EXPECT_TRUE(rules->For({.psk = "a"}).For("z").has_value());
  EXPECT_TRUE(rules->gives_nothing(/*tls_is_possible=*/false));
  EXPECT_FALSE(rules->gives_nothing(/*tls_is_possible=*/true));
}

TEST(ClientRules, AClientIsRefusedAtOnceIfTlsCantHelpIt) {
  const auto gives_nothing = [](const std::string& content, bool tls) {
    return Rules(content, Client({"192.0.2.7"})).gives_nothing(tls);
  };
  EXPECT_TRUE(gives_nothing("* -\n", true));
  EXPECT_TRUE(gives_nothing("192.0.2.7 -\n* x rw\n", true));
  EXPECT_TRUE(gives_nothing("psk:a -\n* -\n", true));
  EXPECT_TRUE(gives_nothing("psk:a -\n* x rw\n", false));
  EXPECT_FALSE(gives_nothing("psk:a x ro\n* -\n", true));
  EXPECT_TRUE(gives_nothing("psk:a x ro\n* -\n", false));
  EXPECT_FALSE(gives_nothing("psk:a -\n* x rw\n", true));
}

TEST(ClientRules, WithoutAUnitNobodyKnowsWhichLineHolds) {
  PeerIdentity peer;
  peer.family = PeerIdentity::Family::kUnix;
  peer.uid = 7;
  peer.why_no_unit = "no kernel";
  const auto parse = [&](const char* content) {
    absl::StatusOr<ClientRules> rules =
        ClientRules::Parse(content, "rules", peer);
    EXPECT_TRUE(rules.ok());
    return *std::move(rules);
  };
  const ClientRules with_unit =
      parse("uid:7 x rw\nunit:a.service -\npsk:a y ro\n");
  EXPECT_TRUE(with_unit.For(TlsIdentity()).empty());
  EXPECT_EQ(with_unit.why_no_unit(), "no kernel");
  EXPECT_TRUE(with_unit.For({.psk = "a"}).For("y").has_value());
  const ClientRules without = parse("uid:7 unit:x rw # unit:\n");
  EXPECT_FALSE(without.For(TlsIdentity()).empty());
  EXPECT_EQ(without.why_no_unit(), "");
  // A process that is in no unit is known not to be in one.
  peer.unit.emplace();
  EXPECT_TRUE(parse("uid:7 x rw\nunit:* -\n").For(TlsIdentity()).For("x"));
}

TEST(ClientRules, WordsAndQuotes) {
  EXPECT_EQ(Use("* \"a b\" ro", {"192.0.2.7"}, "a b"), "read-only 1");
  EXPECT_EQ(Use("* \"a\\\"b\" ro\r\n", {"192.0.2.7"}, "a\"b"), "read-only 1");
  EXPECT_EQ(Use("*\t\"\"\trw", {"192.0.2.7"}, ""), "read-write 1");
  EXPECT_EQ(Use("* \"rw\" \"-\" ro", {"192.0.2.7"}, "rw"), "read-only 1");
  EXPECT_EQ(Use("* \"rw\" \"-\" ro", {"192.0.2.7"}, "-"), "read-only 1");
  EXPECT_EQ(Use("* a#b ro # a comment", {"192.0.2.7"}, "a#b"), "read-only 1");
  EXPECT_EQ(Use("* \"#a\" ro", {"192.0.2.7"}, "#a"), "read-only 1");
  EXPECT_EQ(Use("* a\\*b ro", {"192.0.2.7"}, "a*b"), "read-only 1");
  EXPECT_EQ(Use("* a\\*b ro", {"192.0.2.7"}, "axb"), "");
  EXPECT_EQ(
      Use("\"tls:CN=Build Host,O=x y\" e ro", {"tls:CN=Build Host,O=x y"}, "e"),
      "read-only 1");
  EXPECT_EQ(Use("* e ro cow", {"192.0.2.7"}, "e"), "copy-on-write 1");
  EXPECT_EQ(Use("* e cow ro", {"192.0.2.7"}, "e"), "copy-on-write 1");
  EXPECT_EQ(Use("* e cow", {"192.0.2.7"}, "e"), "copy-on-write 1");
}

TEST(ClientRules, Exclusive) {
  const AskedClient client = Client({"192.0.2.7"});
  const ClientRules rules =
      Rules("* a rw exclusive=off\n* b rw exclusive=wait\n* c cow\n", client);
  const ClientGrants grants = rules.For(client.tls);
  EXPECT_EQ(grants.For("a")->grant.exclusive, Exclusive::kOff);
  EXPECT_EQ(grants.For("b")->grant.exclusive, Exclusive::kWait);
  EXPECT_EQ(grants.For("c")->grant.exclusive, std::nullopt);
  EXPECT_EQ(rules.strongest_exclusive(), Exclusive::kWait);
  EXPECT_TRUE(rules.gives_copies());
  // Lines about others ask for nothing.
  const ClientRules others =
      Rules("* a rw\n192.0.2.8 b cow exclusive=takeover\n", client);
  EXPECT_EQ(others.strongest_exclusive(), std::nullopt);
  EXPECT_FALSE(others.gives_copies());
}

TEST(ClientRules, AMistakeIsSaidWithItsLine) {
  struct {
    const char* content;
    const char* words;
  } const kRows[] = {
      {"* x rw\nexample.com x rw\n",
       "\"rules\" line 2: \"example.com\": this "
       "is no address"},
      {"*", "what WHO may use is missing"},
      {"* x", "how the exports may be used is missing"},
      {"* rw", "no export before the settings"},
      {"* x rw y", "\"y\" is no setting"},
      {"* x rw ro", "rw goes with neither ro nor cow"},
      {"* x rw cow", "rw goes with neither"},
      {"* x ro ro", "there twice"},
      {"* x exclusive=wait", "one of ro, rw and cow is needed"},
      {"* x rw exclusive=now", "use off, refuse, wait or takeover"},
      {"* x rw exclusive=off exclusive=off", "exclusive= is there twice"},
      {"* x rw max-rate=fast", "max-rate=fast: this is no limit"},
      {"* x rw max-iops=", "max-iops=: this is no limit"},
      {"* x rw max-iops=1:0", "max-iops=1:0: this is no limit"},
      {"* x rw max-rate=1 max-rate=2 max-rate=3",
       "max-rate=3: given twice already"},
      {"* x max-rate=1", "one of ro, rw and cow is needed"},
      {"* - rw", "- stands alone"},
      {"* x - rw", "- stands alone"},
      {"* - x", "- stands alone"},
      {"* \"x rw", "a quote doesn't end"},
      {"* \"x\"y rw", "a blank is missing"},
      {"* x\"y rw", "a quote is inside"},
      {"* x\x01 rw", "a control character"},
      {"* \x7f rw", "a control character"},
      {"uid:no-such-user-here x rw", "no such user"},
      {"tls: x rw", "nothing behind the colon"},
      {"psk: x rw", "nothing behind the colon"},
      {"tls:alice x rw", "is no attribute"},
      {"pid:1 x rw", "process ids"},
      {"192.0.2.0/33 x rw", "from 0 to 32"},
      {"\xef\xbb\xbf* x rw", "this is no address"},
  };
  for (const auto& row : kRows) {
    EXPECT_TRUE(absl::StrContains(WrongBecause(row.content), row.words))
        << row.content << ": " << WrongBecause(row.content);
    // Wherever it is, and whomever it is about.
    EXPECT_TRUE(absl::StrContains(
        WrongBecause(absl::StrCat("* - # all\n\n192.0.2.1 a b rw\n",
                                  row.content, "\n* z rw\n")),
        "line "));
  }
  const std::string nul("* a\0b rw\n", 9);
  EXPECT_TRUE(absl::StrContains(WrongBecause(nul), "a control character"));
}

std::string Repeated(absl::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) absl::StrAppend(&all, text);
  return all;
}

TEST(ClientRules, LimitsOfAFile) {
  const std::string longest =
      absl::StrCat("* x rw #", std::string(kMaxRuleLineBytes - 8, 'x'));
  EXPECT_EQ(Use(longest + "\n", {"192.0.2.7"}, "x"), "read-write 1");
  EXPECT_TRUE(
      absl::StrContains(WrongBecause(longest + "x\n"), "more than 4096 bytes"));
  EXPECT_TRUE(
      absl::StrContains(WrongBecause(absl::StrCat(
                            "* ", std::string(kMaxGlobBytes + 1, 'a'), " rw")),
                        "no more than 255 bytes"));
  const std::string lines(kMaxRuleLines - 1, '\n');
  EXPECT_EQ(Use(lines + "* x rw", {"192.0.2.7"}, "x"),
            absl::StrCat("read-write ", kMaxRuleLines));
  EXPECT_TRUE(absl::StrContains(WrongBecause(lines + "\n* x rw"),
                                "more than 131072 lines"));
  std::string exports;
  for (uint32_t i = 0; i < kMaxRuleExports / 1024; ++i) {
    absl::StrAppend(&exports, "192.0.2.1", Repeated(" a", 1024), " rw\n");
  }
  EXPECT_EQ(Use(exports, {"192.0.2.1"}, "a"), "read-write 1");
  EXPECT_TRUE(absl::StrContains(WrongBecause(exports + "* x rw\n"),
                                "more than 262144 names"));
}

// SECURITY.md has this number.
TEST(ClientRules, TheMostMemoryThatALongFileTakes) {
  constexpr size_t kMost = 64 << 20;
  // As many lines and names as there may be, all about one client.
  for (const char* form : {"psk:a %06x-a-long-name-here %06x-b-long-name-here",
                           "psk:a %06x-*? %06x*?"}) {
    std::string content;
    for (unsigned i = 0; i < kMaxRuleLines - 1; ++i) {
      absl::StrAppend(&content,
                      absl::StrReplaceAll(form, {{"%06x", absl::StrCat(i)}}),
                      " ro\n");
    }
    const AskedClient client = Client({"192.0.2.7", "psk:a"});
    const auto used = [] {
      const struct mallinfo2 memory = mallinfo2();
      return memory.uordblks + memory.hblkhd;
    };
    ASSERT_LT(content.size(), kMaxRulesBytes);
    const size_t before = used();
    const ClientRules rules = Rules(content, client);
    const ClientGrants grants = rules.For(client.tls);
    EXPECT_FALSE(grants.empty());
    EXPECT_LT(used() - before, kMost + content.size()) << form;
  }
}

// What is kept of a file is what its client may need, so that a long file costs
// no more than to read it.
TEST(ClientRules, LinesAboutOthersTakeNoMemory) {
  std::string content;
  for (int i = 0; i < 100000; ++i) {
    absl::StrAppend(&content, "10.", i >> 16, ".", (i >> 8) & 255, ".", i & 255,
                    " a-long-name-of-an-export-", i, " vm-* ro\n");
  }
  absl::StrAppend(&content, "192.0.2.7 mine rw\n");
  const AskedClient client = Client({"192.0.2.7"});
  const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
  absl::StatusOr<ClientRules> rules =
      ClientRules::Parse(std::move(content), "rules", client.peer);
  const size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_TRUE(rules->For(client.tls).For("mine").has_value());
  EXPECT_LT(after, before + 4096);
}

TEST(ClientRules, AFileThatCantBeReadGivesNoRules) {
  const std::string path = absl::StrCat(testing::TempDir(), "rules-", getpid());
  const auto error_of = [&](const std::string& name) {
    const auto rules = ClientRules::ReadFor(name, PeerIdentity());
    EXPECT_EQ(ExitStatusOf(rules.status()), ExitStatus::kConfig) << name;
    return std::string(rules.status().message());
  };
  EXPECT_TRUE(absl::StrContains(error_of(path), "No such file"));
  EXPECT_TRUE(absl::StrContains(error_of("/"), "no regular file"));
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_TRUE(absl::StrContains(error_of(path), "no regular file"));
  unlink(path.c_str());
  std::ofstream(path) << "* x rw\n";
  EXPECT_TRUE(ClientRules::ReadFor(path, PeerIdentity()).ok());
  // As one that is being written in its place.
  std::ofstream(path) << "* x rw\n* y rw";
  EXPECT_TRUE(absl::StrContains(error_of(path), "rules-") &&
              absl::StrContains(error_of(path),
                                "line 2: there is no newline at the end"));
  std::ofstream(path) << "";
  EXPECT_TRUE(ClientRules::ReadFor(path, PeerIdentity()).ok());
  // It says that it has no bytes, and has some.
  EXPECT_TRUE(absl::StrContains(error_of("/proc/version"), "it changes while"));
  ASSERT_EQ(truncate(path.c_str(), kMaxRulesBytes + 1), 0);
  EXPECT_TRUE(absl::StrContains(error_of(path), "more than 16777216 bytes"));
  unlink(path.c_str());
}

TEST(ClientRules, WarnsOfAFileThatOthersMayChange) {
  const std::string path = absl::StrCat(testing::TempDir(), "rules-", getpid());
  std::ofstream(path) << "* x rw\n";
  const auto warnings = [&](mode_t mode) {
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    const auto rules = ClientRules::ReadFor(path, PeerIdentity());
    EXPECT_TRUE(rules.ok()) << rules.status();
    return rules->Warnings(/*tls_is_certain=*/true);
  };
  EXPECT_TRUE(warnings(0644).empty());
  ASSERT_EQ(warnings(0664).size(), 1u);
  EXPECT_TRUE(absl::StrContains(warnings(0664)[0], "the group of the file"));
  ASSERT_EQ(warnings(0646).size(), 1u);
  EXPECT_TRUE(absl::StrContains(warnings(0646)[0], "every user"));
  unlink(path.c_str());
}

TEST(AskedClient, IsOneClient) {
  const auto wrong = [](const std::vector<std::string>& words) {
    AskedClient client;
    absl::Status status;
    for (const std::string& word : words) status.Update(client.Add(word));
    return std::string(status.message());
  };
  for (const char* who : {"192.0.2.0/24", "*", "any", "anyipv6", "vsock:"}) {
    EXPECT_TRUE(absl::StrContains(wrong({who}), "several clients")) << who;
  }
  EXPECT_TRUE(absl::StrContains(wrong({"192.0.2.7", "uid:0"}), "two families"));
  EXPECT_FALSE(wrong({"example.com"}).empty());
  EXPECT_EQ(wrong({"uid:0", "gid:0", "unit:a.service", "psk:a"}), "");
  EXPECT_EQ(wrong({"unix:"}), "");
  EXPECT_EQ(wrong({"2001:db8::1", "tls:CN=a,O=b", "issuer:CN=ca"}), "");
  // A client that has only a TLS identity comes from somewhere.
  EXPECT_EQ(Use("* x rw\n192.0.2.7 y rw\n", {"psk:a"}, "x"), "read-write 1");
}

}  // namespace
}  // namespace nbdinetd
