// What the settings of an .export file mean, and which are errors.
#include "generator/export_definition.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/option_table.h"

namespace nbdinetd {
namespace {

absl::StatusOr<ExportDefinition> Define(
    const std::string& lines, ManagerScope scope = ManagerScope::kSystem) {
  ExportFile file;
  file.sources = {"a", "a.export", {}};
  const absl::Status parsed =
      ParseExportText("[Export]\n" + lines, "a.export", file.settings);
  EXPECT_TRUE(parsed.ok()) << parsed;
  return DefineExport(file, scope);
}

std::string ErrorOf(const std::string& lines) {
  const absl::StatusOr<ExportDefinition> definition = Define(lines);
  EXPECT_FALSE(definition.ok()) << lines;
  return std::string(definition.status().message());
}

using Words = std::vector<std::string>;

TEST(ExportDefinition, AFileIsEnough) {
  const absl::StatusOr<ExportDefinition> definition = Define("File=/a b\n");
  ASSERT_TRUE(definition.ok()) << definition.status();
  EXPECT_EQ(definition->path, "/a b");
  EXPECT_FALSE(definition->is_directory);
  EXPECT_FALSE(definition->is_listener);
  EXPECT_TRUE(definition->is_enabled);
  EXPECT_TRUE(definition->arguments.empty());
}

// One for each key of an option: lines, and arguments of nbdinetd.
struct KeyCase {
  std::string key;
  std::string lines;
  Words arguments;
  std::string wrong;  // a value that isn't valid; empty for none
};

const KeyCase kKeyCases[] = {
    {"ReadOnly", "ReadOnly=yes\n", {"--readonly"}, "maybe"},
    {"ExportName",
     "ExportName=a $b %n\n",
     {"--exportname=a $b %n"},
     std::string(5000, 'x')},
    {"Description",
     "Description=a \"b\"\n",
     {"--description=a \"b\""},
     std::string(5000, 'x')},
    {"Directory", "File=\nDirectory=/d\n", {}, "d"},
    {"Offset", "Offset=1M\n", {"--offset=1M"}, "-1"},
    {"Length", "Length=4096\n", {"--length=4096"}, "4096B"},
    {"Partition", "Partition=root\n", {"--partition=root"}, "0"},
    {"Partitions",
     "File=\nDirectory=/d\nPartitions=yes\n",
     {"--partitions"},
     "maybe"},
    {"Size", "Size=up:512\n", {"--size=up:512"}, "up:0"},
    {"Cache", "Cache=drop\n", {"--cache=drop"}, "all"},
    {"Cow", "Cow=discard\n", {"--cow=discard"}, "maybe"},
    {"CowDir",
     "Cow=discard\nCowDir=/d\n",
     {"--cow=discard", "--cow-dir=/d"},
     "d"},
    {"CowSize",
     "Cow=discard\nCowSize=1G\n",
     {"--cow=discard", "--cow-size=1G"},
     "-1"},
    {"CowKey",
     "Cow=keep\nCowKey=peer-address\n",
     {"--cow=keep", "--cow-key=peer-address"},
     "name"},
    {"CowStale",
     "Cow=keep\nCowKey=peer-address\nCowStale=discard\n",
     {"--cow=keep", "--cow-key=peer-address", "--cow-stale=discard"},
     "maybe"},
    {"Exclusive", "Exclusive=wait\n", {"--exclusive=wait"}, "yes"},
    {"ExclusiveScope",
     "Exclusive=wait\nExclusiveScope=cluster\n",
     {"--exclusive=wait", "--exclusive-scope=cluster"},
     "all"},
    {"ForceShare", "ForceShare=yes\n", {"--force-share"}, "maybe"},
    {"BlockSize", "BlockSize=512:4K:32M\n", {"--block-size=512:4K:32M"}, "512"},
    {"MultiConn", "MultiConn=off\n", {"--multi-conn=off"}, "maybe"},
    {"Shared", "Shared=no\n", {"--shared=no"}, "maybe"},
    {"Sandbox", "Sandbox=require\n", {"--sandbox=require"}, "yes"},
    {"Verbose", "Verbose=on\n", {"--verbose"}, "2"},
    {"MaxConnections", "MaxConnections=5\n", {}, "0"},
    {"IdleExit", "Mode=listener\nIdleExit=2min\n", {"--exit-idle=2min"}, "x"},
    {"TLS", "TLS=require\n", {"--tls=require"}, "yes"},
    {"TLSCertificates", "TLSCertificates=/k\n", {}, "k"},
    {"TLSPreSharedKeys", "TLSPreSharedKeys=/k\n", {}, "k"},
    {"TLSVerifyPeer", "TLSVerifyPeer=1\n", {"--tls-verify-peer"}, "2"},
    {"TLSAllow",
     "TLS=require\nTLSAllow=CN=a\nTLSAllow=b c\n",
     {"--tls=require", "--tls-allow=CN=a", "--tls-allow=b c"},
     ""},
    {"Allow",
     "Allow=192.0.2.1,uid:nobody-here\nAllow=unix:\n",
     {"--allow=192.0.2.1,uid:nobody-here", "--allow=unix:"},
     "example.com"},
    {"Deny", "Deny=any\nDeny=\nDeny=gid:7\n", {"--deny=gid:7"}, "1.2.3.4/33"},
    {"Rules", "Rules=/etc/nbdinetd/rules\n", {}, "rules"},
    {"HandshakeTimeout",
     "HandshakeTimeout=1h 30min\n",
     {"--handshake-timeout=1h 30min"},
     "soon"},
    {"StallTimeout", "StallTimeout=5\n", {"--stall-timeout=5"}, "-"},
    {"IdleTimeout", "IdleTimeout=0\n", {"--idle-timeout=0"}, "1 year ago"},
    {"KeepAlive", "KeepAlive=off\n", {"--keepalive=off"}, "yes"},
    {"MaxRate",
     "MaxRate=9\nMaxRate=\nMaxRate=1M\nMaxRate=2M:4K\n",
     {"--max-rate=1M", "--max-rate=2M:4K"},
     "fast"},
    {"MaxIOPS", "MaxIOPS=100\n", {"--max-iops=100"}, "-1"},
};

TEST(ExportDefinition, EachKeyOfAnOptionGivesItsArguments) {
  std::vector<std::string> tried;
  for (const KeyCase& one : kKeyCases) {
    const absl::StatusOr<ExportDefinition> definition =
        Define("File=/f\n" + one.lines);
    ASSERT_TRUE(definition.ok()) << one.key << definition.status();
    EXPECT_EQ(definition->arguments, one.arguments) << one.key;
    tried.push_back(one.key);
  }
  std::vector<std::string> keys;
  for (const OptionRow& row : OptionTable()) {
    if (row.key != nullptr) keys.emplace_back(row.key);
  }
  EXPECT_EQ(tried, keys);
}

TEST(ExportDefinition, EachWrongValueIsAnErrorWithItsKeyAndLine) {
  for (const KeyCase& one : kKeyCases) {
    if (one.wrong.empty()) continue;
    const std::string error =
        ErrorOf(absl::StrCat("File=/f\n", one.key, "=", one.wrong, "\n"));
    EXPECT_TRUE(absl::StartsWith(error, absl::StrCat("a.export:3: ", one.key)))
        << error;
    EXPECT_FALSE(absl::StrContains(error, "--")) << error;
    EXPECT_FALSE(absl::StrContains(error, "\n")) << error;
  }
}

TEST(ExportDefinition, ErrorsSayWhatToDo) {
  EXPECT_EQ(ErrorOf("File=/f\n\nReadOnly=maybe\n"),
            "a.export:4: ReadOnly=maybe: use yes or no");
  EXPECT_EQ(ErrorOf("File=/f\nExclusive=yes\n"),
            "a.export:3: Exclusive=yes: use refuse, wait or takeover, or no");
  EXPECT_EQ(ErrorOf("File=/f\nExclusive=a b\n"),
            "a.export:3: Exclusive=\"a b\": use refuse, wait or takeover, or "
            "no");
  EXPECT_EQ(ErrorOf("File=/f\nReadonly=yes\n"),
            "a.export:3: Readonly= is no key of [Export]; did you mean "
            "ReadOnly=?");
  EXPECT_EQ(ErrorOf("File=/f\nCopyOnWrite=yes\n"),
            "a.export:3: CopyOnWrite= is no key of [Export]; "
            "nbdinetd.export(5) has all of them");
  EXPECT_EQ(ErrorOf("File=f\n"), "a.export:2: File=f: use an absolute path");
  EXPECT_EQ(ErrorOf("ReadOnly=yes\n"),
            "a.export: nothing to serve; [Export] needs File=, or Directory=");
  EXPECT_EQ(ErrorOf("File=/f\nDirectory=/d\n"),
            "a.export:3: both File= and Directory=; leave out one of them");
  EXPECT_EQ(ErrorOf("File=/f\nMode=listen\n"),
            "a.export:3: Mode=listen: use connection or listener");
  EXPECT_EQ(ErrorOf("File=/f\n[Exprt]\nA=b\n"),
            "a.export:4: there is no section [Exprt]; use [Export], [Unit], "
            "[Socket], [Service] or [Install]");
}

TEST(ExportDefinition, PathsHaveNoPartThatLeadsUp) {
  EXPECT_EQ(ErrorOf("File=/dev/../srv/x\n"),
            "a.export:2: File=/dev/../srv/x: use the path without ..");
  for (const char* lines : {"File=/..\n", "Directory=/srv/..\n",
                            "File=/f\nTLSCertificates=/a/../b\n",
                            "File=/f\nTLSPreSharedKeys=/a/..\n"}) {
    EXPECT_TRUE(absl::EndsWith(ErrorOf(lines), ": use the path without .."))
        << lines;
  }
  EXPECT_TRUE(Define("File=/a/..b/c../...\n").ok());
}

TEST(ExportDefinition, PathsOfCredentialsHaveNoSpaces) {
  EXPECT_EQ(ErrorOf("File=/f\nTLSCertificates=/my keys\n"),
            "a.export:3: TLSCertificates=\"/my keys\": systemd can't hand over "
            "files whose path has a space; choose a path without one");
  EXPECT_NE(ErrorOf("File=/f\nTLSPreSharedKeys=/my keys\n"), "");
  EXPECT_TRUE(Define("File=/f\nTLSCertificates=/my\tkeys\n").ok());
  // There they are no credentials.
  EXPECT_TRUE(
      Define("File=/f\nTLSCertificates=/my keys\n", ManagerScope::kUser).ok());
}

TEST(ExportDefinition, MessagesAreShortAndPlain) {
  const std::string long_text(300000, 'x');
  for (const std::string& lines :
       {long_text + "=1\n", "File=" + long_text + "\n",
        "File=/f\nReadOnly=" + long_text + "\n",
        "File=/f\nAllow=" + long_text + "\n",
        "File=/f\nExclusive=" + long_text + "\n",
        "File=/f\n[" + long_text + "]\nA=1\n"}) {
    EXPECT_LT(ErrorOf(lines).size(), 1000u) << lines.substr(0, 30);
  }
  EXPECT_TRUE(absl::StrContains(ErrorOf("File=/f\n[a\x1b]\nA=1\n"),
                                "no section [\"a\\033\"]; "));
}

TEST(ExportDefinition, SettingsThatDontFitTogetherAreErrorsInTheFilesWords) {
  EXPECT_TRUE(absl::StartsWith(ErrorOf("File=/f\nTLSAllow=a\n"),
                               "a.export:3: TLSAllow= needs TLS=require: "));
  EXPECT_EQ(
      ErrorOf("Directory=/d\nDescription=x\n"),
      "a.export:3: Description= and Directory= can't be used together: leave "
      "out one of them");
  EXPECT_TRUE(absl::StartsWith(ErrorOf("File=/f\nIdleExit=1min\n"),
                               "a.export:3: IdleExit= needs Mode=listener"));
  EXPECT_TRUE(absl::StartsWith(
      ErrorOf("File=/f\nMode=listener\nMaxConnectionsPerSource=3\n"),
      "a.export:4: MaxConnectionsPerSource= needs Mode=connection"));
}

TEST(ExportDefinition, KeysOfTheUnits) {
  const absl::StatusOr<ExportDefinition> definition = Define(
      "File=/f\nFile=/g\nUser=nbd\nGroup=6\nEnabled=no\nOptions=-v %n\n"
      "Options=--log=null\nMaxConnectionsPerSource=3\nMaxConnections=9\n"
      "[X-Mine]\nAnything=1\n");
  ASSERT_TRUE(definition.ok()) << definition.status();
  EXPECT_EQ(definition->path, "/g");
  EXPECT_EQ(definition->user, "nbd");
  EXPECT_EQ(definition->group, "6");
  EXPECT_FALSE(definition->is_enabled);
  EXPECT_EQ(definition->more_options, " -v %n --log=null");
  EXPECT_EQ(definition->max_connections, "9");
  EXPECT_EQ(definition->max_connections_per_source, "3");
  EXPECT_FALSE(Define("File=/f\nUser=a b\n").ok());
  EXPECT_FALSE(Define("File=/f\nMaxConnectionsPerSource=0\n").ok());
  EXPECT_FALSE(Define("File=/f\nEnabled=never\n").ok());
  // Exclusive=no is no option, ReadOnly=no neither.
  EXPECT_TRUE(
      Define("File=/f\nExclusive=no\nReadOnly=no\n")->arguments.empty());
}

TEST(ExportDefinition, AUsersServiceManagerCantChangeTheUser) {
  EXPECT_TRUE(Define("File=/f\n", ManagerScope::kUser).ok());
  EXPECT_TRUE(absl::StartsWith(
      Define("File=/f\nUser=me\n", ManagerScope::kUser).status().message(),
      "a.export:3: User=: "));
}

}  // namespace
}  // namespace nbdinetd
