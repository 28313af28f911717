// Which .export files are found, and what is read from them.
#include "generator/export_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

// A folder that goes with the test.
class Folder {
 public:
  std::string path(const std::string& name) const {
    return absl::StrCat(temp_dir_.path(), "/", name);
  }
  void Write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(
        std::filesystem::path(path(name)).parent_path());
    std::ofstream(path(name)) << text;
  }

 private:
  const nbdtest::TempDir temp_dir_;
};

std::vector<ExportSetting> Parsed(absl::string_view text) {
  std::vector<ExportSetting> settings;
  EXPECT_EQ(ParseExportText(text, "a.export", settings), absl::OkStatus());
  return settings;
}

// "[SECTION]KEY=VALUE@LINE" of each.
std::vector<std::string> InWords(const std::vector<ExportSetting>& settings) {
  std::vector<std::string> words;
  for (const ExportSetting& s : settings) {
    words.push_back(
        absl::StrCat("[", s.section, "]", s.key, "=", s.value, "@", s.line));
  }
  return words;
}

std::string ErrorOf(absl::string_view text) {
  std::vector<ExportSetting> settings;
  return std::string(ParseExportText(text, "a.export", settings).message());
}

using Lines = std::vector<std::string>;

TEST(ExportFile, SectionsKeysAndValuesAreReadWithTheirLines) {
  EXPECT_EQ(InWords(Parsed("[Export]\nFile=/srv/a b.img\n\n"
                           "\t ReadOnly =  yes  \r\n[X-Mine]\nA=b=c\nB=")),
            (Lines{"[Export]File=/srv/a b.img@2", "[Export]ReadOnly=yes@4",
                   "[X-Mine]A=b=c@6", "[X-Mine]B=@7"}));
  EXPECT_EQ(InWords(Parsed("\xef\xbb\xbf[E]\nK=\xc3\xa9%$\"'\\x")),
            (Lines{"[E]K=\xc3\xa9%$\"'\\x@2"}));
}

TEST(ExportFile, CommentsBeginALineAndNothingElse) {
  EXPECT_EQ(
      InWords(Parsed("# a\n; b\n[E]\n  # c\nK=v # no comment; neither\n")),
      (Lines{"[E]K=v # no comment; neither@5"}));
}

TEST(ExportFile, ABackslashContinuesALineAcrossComments) {
  EXPECT_EQ(InWords(Parsed("[E]\nK=a\\\n# between\n  b\\\n; again\nc\nL=d")),
            (Lines{"[E]K=a   b c@2", "[E]L=d@7"}));
  // Two are one backslash of the value.
  EXPECT_EQ(InWords(Parsed("[E]\nK=a\\\\\nL=b\\\\\\\nc\\")),
            (Lines{"[E]K=a\\\\@2", "[E]L=b\\\\ c@3"}));
  EXPECT_EQ(InWords(Parsed("[E]\nK=a\\\n\nL=b")),
            (Lines{"[E]K=a@2", "[E]L=b@4"}));
}

TEST(ExportFile, ALineThatIsNothingIsAnErrorWithItsLine) {
  EXPECT_EQ(ErrorOf("[E]\nA=b\nReadOnly\n"),
            "a.export:3: \"ReadOnly\": a setting is KEY=VALUE, and a comment "
            "begins with #");
  EXPECT_TRUE(absl::StartsWith(ErrorOf("[E]\n=b"), "a.export:2: \"=b\""));
  EXPECT_TRUE(absl::StartsWith(ErrorOf("\nA=b"), "a.export:2: \"A=b\""));
  EXPECT_TRUE(absl::StartsWith(ErrorOf("[E\nA=b"), "a.export:1: \"[E\""));
  EXPECT_TRUE(absl::StartsWith(ErrorOf("[]"), "a.export:1: \"[]\""));
  EXPECT_TRUE(absl::StartsWith(ErrorOf("[E]\nA=b\\\nc\xff\n"), "a.export:2: "));
  EXPECT_TRUE(
      absl::StartsWith(ErrorOf(std::string("[E]\nA=\0b", 8)), "a.export:2: "));
}

TEST(ExportFile, MessagesHaveABound) {
  const std::string long_text(300000, 'x');
  for (const std::string& text :
       {long_text, "[" + long_text, "K" + long_text + "=1",
        "[E]\n=" + long_text, std::string("[E]\nK\\") + long_text}) {
    EXPECT_LT(ErrorOf(text).size(), 250u);
  }
  EXPECT_LT(ShownValue(long_text).size(), 250u);
  EXPECT_EQ(ShownValue("/a\nb"), "\"/a\\nb\"");
  // No character is cut in two.
  EXPECT_EQ(Shortened("ab\xc3\xa9z", 4), "ab\xc3\xa9...");
  EXPECT_EQ(Shortened("ab\xc3\xa9z", 3), "ab...");
  EXPECT_EQ(Shortened("ab", 2), "ab");
}

TEST(ExportFile, AnEmptyAssignmentResetsAList) {
  const ExportFile file{{}, Parsed("[E]\nK=a\nK=b\nL=x\nK=\nK=c\nK=d\nL=\n")};
  std::vector<std::string> values;
  for (const ExportSetting* setting : SettingsOf(file, "E", "K")) {
    values.push_back(setting->value);
  }
  EXPECT_EQ(values, (Lines{"c", "d"}));
  EXPECT_EQ(LastSettingOf(file, "E", "K")->value, "d");
  EXPECT_EQ(LastSettingOf(file, "E", "L"), nullptr);
  EXPECT_EQ(LastSettingOf(file, "F", "K"), nullptr);
}

TEST(ExportFile, BooleansAreSystemds) {
  for (const char* yes : {"yes", "Y", "1", "true", "T", "ON"}) {
    EXPECT_TRUE(BooleanOf({"E", "K", yes, "a.export", 7}).value()) << yes;
  }
  for (const char* no : {"no", "N", "0", "False", "f", "off"}) {
    EXPECT_FALSE(BooleanOf({"E", "K", no, "a.export", 7}).value()) << no;
  }
  EXPECT_EQ(BooleanOf({"E", "ReadOnly", "maybe", "golden.export", 7})
                .status()
                .message(),
            "golden.export:7: ReadOnly=maybe: use yes or no");
  EXPECT_EQ(BooleanOf({"E", "K", "a b\x1b", "g", 7}).status().message(),
            "g:7: K=\"a b\\033\": use yes or no");
}

TEST(ExportFile, NamesAreChecked) {
  for (const char* name : {"a", "golden-2.img_1", "-", "A9"}) {
    EXPECT_EQ(CheckExportName(name), absl::OkStatus()) << name;
  }
  EXPECT_EQ(CheckExportName(std::string(100, 'x')), absl::OkStatus());
  // Four characters each in the name of the slice.
  EXPECT_EQ(CheckExportName(std::string(57, '-')), absl::OkStatus());
  EXPECT_FALSE(CheckExportName(std::string(58, '-')).ok());
  for (const std::string& name :
       {std::string(), std::string("a b"), std::string("a@b"),
        std::string("listen"), std::string(".a"), std::string("\xc3\xa9"),
        std::string(101, 'x'), std::string("a/b")}) {
    EXPECT_FALSE(CheckExportName(name).ok()) << name;
  }
}

TEST(ExportFile, TheFirstDirectoryDecidesAndMasks) {
  const Folder folder;
  folder.Write("etc/a.export", "[E]\nK=etc\n");
  folder.Write("usr/a.export", "[E]\nK=usr\n");
  folder.Write("usr/b.export", "[E]\nK=usr\n");
  folder.Write("usr/empty.export", "[E]\nK=usr\n");
  folder.Write("etc/empty.export", "");
  folder.Write("usr/null.export", "[E]\nK=usr\n");
  ASSERT_EQ(symlink("/dev/null", folder.path("etc/null.export").c_str()), 0);
  folder.Write("etc/.hidden.export", "[E]\n");
  folder.Write("etc/a.exports", "[E]\n");
  folder.Write("etc/a.export~", "[E]\n");
  const FoundExports found = FindExports(
      {folder.path("missing"), folder.path("etc"), folder.path("usr")});
  EXPECT_TRUE(found.errors.empty());
  ASSERT_EQ(found.exports.size(), 2u);
  EXPECT_EQ(found.exports[0].name, "a");
  EXPECT_EQ(found.exports[0].path, folder.path("etc/a.export"));
  EXPECT_EQ(found.exports[1].path, folder.path("usr/b.export"));
}

TEST(ExportFile, DropInsComeFromAllDirectoriesInTheOrderOfTheirNames) {
  const Folder folder;
  folder.Write("usr/a.export", "[E]\nK=file\n");
  folder.Write("usr/a.export.d/10-x.conf", "[E]\nK=10 usr\n");
  folder.Write("usr/a.export.d/20-x.conf", "[E]\nK=20 usr\n");
  folder.Write("usr/a.export.d/30-x.conf", "[E]\nK=30 usr\n");
  folder.Write("etc/a.export.d/05-x.conf", "\n[E]\nK=05 etc\n");
  folder.Write("etc/a.export.d/20-x.conf", "[E]\nK=20 etc\n");
  folder.Write("etc/a.export.d/30-x.conf", "");  // masks the other one
  folder.Write("etc/a.export.d/40-x", "[E]\nK=no drop-in\n");
  folder.Write("etc/alone.export.d/a.conf", "[E]\nK=no export\n");
  const FoundExports found =
      FindExports({folder.path("etc"), folder.path("usr")});
  ASSERT_EQ(found.exports.size(), 1u);
  const absl::StatusOr<ExportFile> file = ReadExport(found.exports[0]);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(InWords(file->settings), (Lines{"[E]K=file@2", "[E]K=05 etc@3",
                                            "[E]K=10 usr@2", "[E]K=20 etc@2"}));
  EXPECT_EQ(file->settings[1].path, folder.path("etc/a.export.d/05-x.conf"));
}

TEST(ExportFile, AFileByItselfHasTheDropInsBesideIt) {
  const Folder folder;
  folder.Write("a.export", "[E]\nK=1\n");
  folder.Write("a.export.d/a.conf", "[E]\nK=2\n");
  const ExportSources sources = SourcesOfFile(folder.path("a.export"));
  EXPECT_EQ(sources.name, "a");
  EXPECT_EQ(ReadExport(sources)->settings.size(), 2u);
  EXPECT_EQ(SourcesOfFile("b.export").name, "b");
}

TEST(ExportFile, AFileThatIsNoneHarmsNoOther) {
  const Folder folder;
  folder.Write("good.export", "[E]\nK=1\n");
  ASSERT_EQ(mkfifo(folder.path("fifo.export").c_str(), 0600), 0);
  ASSERT_EQ(mkdir(folder.path("folder.export").c_str(), 0700), 0);
  ASSERT_EQ(symlink("/missing", folder.path("dangling.export").c_str()), 0);
  folder.Write("bad name.export", "[E]\n");
  folder.Write("long.export", std::string((1 << 20) + 1, '\n'));
  const FoundExports found = FindExports({folder.path("")});
  ASSERT_EQ(found.exports.size(), 6u);
  for (const ExportSources& sources : found.exports) {
    const absl::StatusOr<ExportFile> file = ReadExport(sources);
    EXPECT_EQ(file.ok(), sources.name == "good") << sources.path;
    if (file.ok()) continue;
    EXPECT_TRUE(absl::StartsWith(file.status().message(), sources.path))
        << file.status();
  }
}

TEST(ExportFile, AFileElsewhereIsNotWaitedFor) {
  const Folder folder;
  const std::string table = folder.path("mountinfo");
  std::ofstream(table) << "30 1 0:30 / " << folder.path("far")
                       << " rw - autofs systemd-1 rw\n";
  folder.Write("far/x.export", "[E]\n");
  folder.Write("far/d/x.conf", "[E]\n");
  for (const char* name : {"file", "drop-in", "drop-ins", "good"}) {
    folder.Write(absl::StrCat("etc/", name, ".export"), "[E]\nK=1\n");
  }
  std::filesystem::remove(folder.path("etc/file.export"));
  std::filesystem::create_directory(folder.path("etc/drop-in.export.d"));
  std::filesystem::create_symlink("../far/x.export",
                                  folder.path("etc/file.export"));
  std::filesystem::create_symlink(folder.path("far/d/x.conf"),
                                  folder.path("etc/drop-in.export.d/x.conf"));
  std::filesystem::create_symlink("../far/d",
                                  folder.path("etc/drop-ins.export.d"));
  const FoundExports found =
      FindExports({folder.path("etc")}, CarefulLook(table));
  ASSERT_EQ(found.exports.size(), 1u);
  EXPECT_EQ(found.exports[0].name, "good");
  Lines errors;
  for (const absl::Status& error : found.errors) {
    errors.emplace_back(error.message());
  }
  std::sort(errors.begin(), errors.end());
  const std::string what =
      ": this leads to an automount point or the network, or through a link of "
      "another user; put the file itself there";
  EXPECT_EQ(errors, (Lines{folder.path("etc/drop-in.export.d/x.conf") + what,
                           folder.path("etc/drop-ins.export.d") + what,
                           folder.path("etc/file.export") + what}));
  // A directory that is itself far away has what it has.
  EXPECT_EQ(
      FindExports({folder.path("far")}, CarefulLook(table)).exports.size(), 1u);
}

TEST(ExportFile, ADirectoryThatCannotBeReadIsAnErrorForNoOther) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read every directory";
  const Folder folder;
  folder.Write("a/x.export", "[E]\n");
  folder.Write("b/y.export", "[E]\n");
  chmod(folder.path("a").c_str(), 0);
  const FoundExports found = FindExports({folder.path("a"), folder.path("b")});
  chmod(folder.path("a").c_str(), 0700);
  ASSERT_EQ(found.errors.size(), 1u);
  EXPECT_TRUE(absl::StartsWith(found.errors[0].message(), folder.path("a")));
  EXPECT_EQ(found.exports.size(), 1u);
}

TEST(ExportFile, UsersHaveDirectoriesOfTheirOwn) {
  EXPECT_EQ(ExportDirectories(ManagerScope::kSystem, "/r"),
            (Lines{"/r/etc/nbdinetd", "/r/run/nbdinetd",
                   "/r/usr/local/lib/nbdinetd", "/r/usr/lib/nbdinetd"}));
  setenv("HOME", "/home/me", 1);
  unsetenv("XDG_CONFIG_HOME");
  EXPECT_EQ(ExportDirectories(ManagerScope::kUser),
            (Lines{"/home/me/.config/nbdinetd", "/etc/nbdinetd/user"}));
  setenv("XDG_CONFIG_HOME", "/conf", 1);
  EXPECT_EQ(ExportDirectories(ManagerScope::kUser),
            (Lines{"/conf/nbdinetd", "/etc/nbdinetd/user"}));
  unsetenv("XDG_CONFIG_HOME");
}

}  // namespace
}  // namespace nbdinetd
