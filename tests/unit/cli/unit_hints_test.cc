// The hints of --check, held against the units that are shipped.

#include "cli/unit_hints.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace nbdinetd {
namespace {

using Words = std::set<std::string>;

// The words of a directive, over all its lines, without "-" and flags.
Words DirectiveOf(const std::string& unit, const std::string& name) {
  std::ifstream file(std::string(std::getenv("NBDINETD_SRCDIR")) + "/units/" +
                     unit);
  EXPECT_TRUE(file.is_open()) << unit;
  Words words;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name + "=", 0) != 0) continue;
    std::istringstream values(line.substr(name.size() + 1));
    for (std::string word; values >> word;) {
      if (word[0] == '-') word.erase(0, 1);
      words.insert(word.substr(0, word.find(':')));
    }
  }
  return words;
}

TEST(UnitHints, KnowTheFoldersOfTheStrictUnits) {
  constexpr char kUnit[] = "nbdinetd-listen.service.in";
  const auto writable = WritableFolders();
  EXPECT_EQ(DirectiveOf(kUnit, "ReadWritePaths"),
            Words(writable.begin(), writable.end()));
  constexpr char kDropIn[] = "nbdinetd@.service.d/strict.conf.in";
  for (const char* directive : {"ReadWritePaths", "TemporaryFileSystem",
                                "ProtectSystem", "ProtectHome", "PrivateTmp"}) {
    EXPECT_EQ(DirectiveOf(kDropIn, directive), DirectiveOf(kUnit, directive));
  }
  Words hidden = DirectiveOf(kUnit, "TemporaryFileSystem");
  EXPECT_EQ(DirectiveOf(kUnit, "ProtectSystem"), Words{"strict"});
  EXPECT_EQ(DirectiveOf(kUnit, "ProtectHome"), Words{"tmpfs"});
  hidden.insert({"/home", "/root"});
  EXPECT_EQ(DirectiveOf(kUnit, "PrivateTmp"), Words{"yes"});
  hidden.insert({"/tmp", "/var/tmp"});
  EXPECT_EQ(Words(HiddenFolders().begin(), HiddenFolders().end()), hidden);
  // Root without capabilities.
  for (const char* unit : {kUnit, "nbdinetd@.service.in"}) {
    std::ifstream file(std::string(std::getenv("NBDINETD_SRCDIR")) + "/units/" +
                       unit);
    std::ostringstream text;
    text << file.rdbuf();
    EXPECT_NE(text.str().find("\nCapabilityBoundingSet=\n"), std::string::npos)
        << unit;
    EXPECT_EQ(text.str().find("\nUser="), std::string::npos) << unit;
  }
}

TEST(UnitHints, NothingIsSaidOfWhatTheUnitsServe) {
  EXPECT_EQ(UnitHints("/", /*read_only=*/true).size(), 0u);
  EXPECT_EQ(UnitHints("/etc/passwd", /*read_only=*/true).size(), 0u);
  EXPECT_EQ(UnitHints("/no/such/file", /*read_only=*/false).size(), 0u);
  EXPECT_EQ(UnitHints("/dev/null", /*read_only=*/false).size(), 0u);
}

TEST(UnitHints, AFolderThatIsNotWritableIsNamed) {
  const auto hints = UnitHints("/etc/passwd", /*read_only=*/false);
  ASSERT_EQ(hints.size(), 1u);
  EXPECT_NE(hints[0].find("can write only below /srv"), std::string::npos);
  EXPECT_NE(hints[0].find("ReadWritePaths=/etc "), std::string::npos);
}

TEST(UnitHints, AHiddenFolderIsNamed) {
  char folder[] = "/tmp/nbdinetd-hints-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  chmod(folder, 0755);
  const std::string path = std::string(folder) + "/disk";
  std::ofstream{path};
  chmod(path.c_str(), 0666);
  auto hints = UnitHints(path, /*read_only=*/false);
  ASSERT_EQ(hints.size(), 1u);
  EXPECT_NE(hints[0].find(std::string("BindPaths=") + folder + " "),
            std::string::npos)
      << hints[0];
  hints = UnitHints(path, /*read_only=*/true);
  ASSERT_EQ(hints.size(), 1u);
  EXPECT_NE(hints[0].find(std::string("BindReadOnlyPaths=") + folder + " "),
            std::string::npos)
      << hints[0];
  // As root without capabilities, only the owner's and others' bits count.
  if (geteuid() == 0) {
    ASSERT_EQ(chown(path.c_str(), 1000, 1000), 0);
  }
  if (geteuid() != 0 || getegid() == 0) {
    chmod(path.c_str(), 0604);
    EXPECT_NE(UnitHints(path, false)[0].find("can't write to"),
              std::string::npos);
    EXPECT_EQ(UnitHints(path, true).size(), 1u);
    chmod(path.c_str(), 0600);
    EXPECT_NE(UnitHints(path, true)[0].find("can't open"), std::string::npos);
    EXPECT_NE(UnitHints(path, true)[0].find("has mode 0600"),
              std::string::npos);
  }
  unlink(path.c_str());
  rmdir(folder);
}

}  // namespace
}  // namespace nbdinetd
