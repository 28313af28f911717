#include "ctl/exec_start.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>

namespace nbdinetd::ctl {
namespace {

using Words = std::vector<std::string>;

TEST(ExecStart, NbdinetdIsKnownByItsName) {
  EXPECT_TRUE(RunsNbdinetd(Words{"/usr/local/sbin/nbdinetd", "nbdinetd"}));
  EXPECT_FALSE(RunsNbdinetd(Words{"/usr/sbin/nbd-server", "nbdinetd"}));
  EXPECT_FALSE(RunsNbdinetd(Words{}));
}

TEST(ExecStart, TheFileIsTheArgumentThatIsNoOptions) {
  EXPECT_EQ(ServedBy(Words{"-r", "/srv/a.img"}).file, "/srv/a.img");
  EXPECT_EQ(ServedBy(Words{"-r", "--", "/srv/a.img"}).file, "/srv/a.img");
  EXPECT_EQ(
      ServedBy(Words{"/srv/a.img", "-re", "name", "--log", "journal"}).file,
      "/srv/a.img");
  EXPECT_EQ(ServedBy(Words{"-ename", "/srv/a.img"}).file, "/srv/a.img");
  EXPECT_EQ(ServedBy(Words{"--exclusive", "/srv/a.img"}).file, "/srv/a.img");
  EXPECT_EQ(ServedBy(Words{"file=/srv/a.img"}).file, "/srv/a.img");
  EXPECT_EQ(ServedBy(Words{"--", "-r"}).file, "-r");
  EXPECT_EQ(ServedBy(Words{"-r", "--"}).file, "");
}

TEST(ExecStart, WhatDecidesTheSizeIsKnown) {
  const ExportSettings settings =
      ServedBy(Words{"--offset=1K", "--length", "5", "--size=up:512",
                     "--partition=root", "/srv/a.img"})
          .settings;
  EXPECT_EQ(settings.part->offset, 1024u);
  EXPECT_EQ(settings.part->length, 5u);
  EXPECT_EQ(settings.size->bytes, 512u);
  EXPECT_EQ(settings.partition->text, "root");
  EXPECT_FALSE(ServedBy(Words{"--size=x", "/a"}).settings.part.has_value());
}

TEST(CtlExecStart, FindsWhatACopyIsKnownBy) {
  const Served plain = ServedBy(Words{"--cow=keep", "/srv/a.img"});
  EXPECT_TRUE(plain.keeps_copies);
  EXPECT_FALSE(plain.export_name.has_value());
  EXPECT_FALSE(plain.partitions);
  for (const Words& words :
       {Words{"-e", "disk", "/a"}, Words{"--exportname=disk", "/a"},
        Words{"--export-name", "disk", "/a"}}) {
    EXPECT_EQ(ServedBy(words).export_name, "disk");
  }
  EXPECT_TRUE(ServedBy(Words{"--directory=/srv", "--partitions"}).partitions);
}

TEST(ExecStart, ADirectoryIsThatOfItsOption) {
  EXPECT_EQ(ServedBy(Words{"--directory=/srv"}).directory, "/srv");
  EXPECT_EQ(ServedBy(Words{"--directory", "/srv"}).directory, "/srv");
  EXPECT_EQ(ServedBy(Words{"--directory", "/srv"}).file, "");
  // As getopt_long() takes it.
  EXPECT_EQ(ServedBy(Words{"--dir=/srv"}).directory, "/srv");
}

TEST(ExecStart, AReadOnlyExportIsKnownByEverySpelling) {
  for (const char* option :
       {"-r", "-vr", "-rename", "--readonly", "--read-only", "--reado"}) {
    EXPECT_TRUE(ServedBy(Words{option, "/srv/a.img"}).read_only) << option;
  }
  EXPECT_FALSE(ServedBy(Words{"/srv/a.img"}).read_only);
  // An argument, and an operand.
  EXPECT_FALSE(ServedBy(Words{"-e", "-r", "/srv/a.img"}).read_only);
  EXPECT_FALSE(ServedBy(Words{"-er", "/srv/a.img"}).read_only);
  EXPECT_FALSE(ServedBy(Words{"--", "-r"}).read_only);
}

TEST(ExecStart, OptionsForTlsCanBeLeftOutWithTheirArguments) {
  EXPECT_EQ(
      ServedBy(Words{"--tls=require", "-r", "--tls-certificates", "/etc/tls",
                     "--tls-ps=/etc/psk", "--tls-verify-peer", "/srv/a.img"})
          .without_tls,
      (Words{"-r", "/srv/a.img"}));
  const Words other = {"-re", "--tls", "--", "--tls"};
  EXPECT_EQ(ServedBy(other).without_tls, other);
}

// By default, a kept copy belongs to a TLS identity.
TEST(ExecStart, KeptCopiesNeedNoTlsWhereItsOptionsAreLeftOut) {
  const char kByAddress[] = "--cow-key=peer-address";
  EXPECT_EQ(ServedBy(Words{"--tls=require", "--tls-psk=/p", "--cow=keep", "a"})
                .without_tls,
            (Words{kByAddress, "--cow=keep", "a"}));
  EXPECT_EQ(
      ServedBy(Words{"--cow-key=tls", "--cow=keep", "--tls", "on", "--", "a"})
          .without_tls,
      (Words{kByAddress, "--cow=keep", "--", "a"}));
  EXPECT_EQ(ServedBy(Words{"--cow-key", "peer-address", "--cow=keep", "a"})
                .without_tls,
            (Words{"--cow-key", "peer-address", "--cow=keep", "a"}));
  EXPECT_EQ(ServedBy(Words{"--cow", "a"}).without_tls, (Words{"--cow", "a"}));
}

TEST(ExecStart, VariablesAreReplacedAsSystemdDoes) {
  const Environment environment = {{"A", "one two"}, {"B", "x"}};
  EXPECT_EQ(Expanded(Words{"$A", "${A}", "p${B}s", "$NONE", "${NONE}", "$$A"},
                     environment),
            (Words{"one", "two", "one two", "pxs", "", "$A"}));
  EXPECT_TRUE(HasVariable(Words{"a", "${B}"}));
  EXPECT_TRUE(HasVariable(Words{"$B"}));
  EXPECT_FALSE(HasVariable(Words{"a$", "$$"}));
}

TEST(ExecStart, AnEnvironmentFileIsReadAsSystemdDoes) {
  char path[] = "/tmp/exec_start_test.XXXXXX";
  close(mkstemp(path));
  std::ofstream(path) << "# comment\n; comment\n\nA=plain\nB=\"two words\"\n"
                         "C='it''s'\nD=one\\\ntwo\nE=\"a\\\"b\"\nnonsense\n";
  Environment environment;
  EXPECT_TRUE(ReadEnvironmentFile(path, environment));
  EXPECT_EQ(environment, (Environment{{"A", "plain"},
                                      {"B", "two words"},
                                      {"C", "its"},
                                      {"D", "onetwo"},
                                      {"E", "a\"b"}}));
  unlink(path);
  EXPECT_FALSE(ReadEnvironmentFile(path, environment));
}

}  // namespace
}  // namespace nbdinetd::ctl
