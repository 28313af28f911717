// How text gets into units, and what is left of the shipped ones.
#include "generator/unit_text.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "generator/shipped_units.h"

namespace nbdinetd {
namespace {

TEST(UnitText, AWordThatNeedsNoQuotesHasNone) {
  EXPECT_EQ(CommandWord("--exportname=/srv/a.img"), "--exportname=/srv/a.img");
  EXPECT_EQ(CommandWord("\xc3\xa9"), "\xc3\xa9");
  EXPECT_EQ(PathWord("/srv/a.img"), "/srv/a.img");
}

TEST(UnitText, ACommandsWordIsQuotedAndEscaped) {
  EXPECT_EQ(CommandWord(""), "\"\"");
  EXPECT_EQ(CommandWord("a b"), "\"a b\"");
  EXPECT_EQ(CommandWord("$a ${b} $$"), "\"$$a $${b} $$$$\"");
  EXPECT_EQ(CommandWord("100%"), "\"100%%\"");
  EXPECT_EQ(CommandWord("a\"b'c\\d"), "\"a\\\"b'c\\\\d\"");
  EXPECT_EQ(CommandWord("a\nb\tc\x7f"), "\"a\\x0ab\\x09c\\x7f\"");
  EXPECT_EQ(CommandWord(";"), "\";\"");
}

TEST(UnitText, APathIsQuotedAndItsDollarsAreLeft) {
  EXPECT_EQ(PathWord("/a $b 1% \"\\"), "\"/a $b 1%% \\\"\\\\\"");
  EXPECT_EQ(BindPathWord("-/a:b"), "\"-/a:b\"");
  EXPECT_EQ(PlainValue("100% \"a\" $b"), "100%% \"a\" $b");
}

TEST(UnitText, AUnitIsAShippedOneWithChanges) {
  const ShippedUnit shipped(
      "[Unit]\nA=1\nA=2\nB=3\n[Service]\nC=4\nD=5\n[Install]\nE=6\n");
  EXPECT_TRUE(shipped.Has("Service", "C"));
  EXPECT_FALSE(shipped.Has("Unit", "C"));
  EXPECT_EQ(shipped.ValueOf("Service", "D"), "5");
  UnitChanges changes;
  changes.head = "# head\n";
  changes.Remove("Unit", "A");
  changes.Remove("Install", "");
  changes.Replace("Service", "C", "7");
  changes.Add("Unit", "F", "8");
  changes.Add("Service", "G", "9");
  EXPECT_EQ(Render(shipped, changes),
            "# head\n\n[Unit]\nB=3\nF=8\n\n[Service]\nC=7\nD=5\nG=9\n");
}

// What the generator replaces and removes must be there.
TEST(UnitText, TheShippedUnitsHaveWhatGeneratedOnesReplace) {
  for (const char* text : {kConnectionSocket, kConnectionService,
                           kListenerSocket, kListenerService}) {
    const ShippedUnit unit(text);
    EXPECT_TRUE(unit.Has("Unit", "Description")) << text;
    EXPECT_TRUE(unit.Has("Unit", "Documentation")) << text;
    EXPECT_FALSE(absl::StrContains(text, "#")) << text;
  }
  for (const char* text : {kConnectionService, kListenerService}) {
    const ShippedUnit unit(text);
    const std::string command = unit.ValueOf("Service", "ExecStart");
    EXPECT_TRUE(absl::StrContains(command, " $NBDINETD_OPTIONS ")) << command;
    EXPECT_TRUE(absl::EndsWith(command, " -- ${NBDINETD_EXPORT}")) << command;
    EXPECT_TRUE(unit.Has("Service", "CapabilityBoundingSet"));
    EXPECT_FALSE(unit.Has("Service", "User"));
  }
  const ShippedUnit socket(kConnectionSocket);
  EXPECT_EQ(socket.ValueOf("Socket", "Accept"), "yes");
  EXPECT_TRUE(socket.Has("Socket", "MaxConnections"));
  EXPECT_TRUE(socket.Has("Socket", "MaxConnectionsPerSource"));
  EXPECT_EQ(socket.ValueOf("Socket", "ListenStream"), "10809");
  EXPECT_EQ(ShippedUnit(kListenerSocket).ValueOf("Socket", "ListenStream"),
            "10809");
}

}  // namespace
}  // namespace nbdinetd
