// The hint about exports that have more names than a list shows.
#include "cli/check_asked.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace nbdinetd {
namespace {

// The files of a directory, as file systems find them by their names.
class Directory : public Catalog {
 public:
  using Folding = std::string (*)(absl::string_view name);

  Directory(std::set<std::string> names, Folding fold)
      : names_(std::move(names)), fold_(fold) {}

  absl::Status Find(absl::string_view name) override {
    for (const std::string& file : names_) {
      if (fold_(file) == fold_(name)) return absl::OkStatus();
    }
    return absl::NotFoundError("none");
  }
  absl::StatusOr<Opened> Open(absl::string_view) override {
    return absl::UnimplementedError("not asked for");
  }
  absl::Status List(Visitor) override { return absl::OkStatus(); }
  std::string InWords() override { return ""; }

  CheckReport Report() const {
    CheckReport report;
    for (const std::string& name : names_) {
      report.exports.emplace_back().name = name;
    }
    return report;
  }

 private:
  const std::set<std::string> names_;
  const Folding fold_;
};

std::string Hint(std::set<std::string> names, Directory::Folding fold) {
  Directory directory(std::move(names), fold);
  return AliasHint(directory, directory.Report());
}

std::string AsItIs(absl::string_view name) { return std::string(name); }
std::string InLowerCase(absl::string_view name) {
  return absl::AsciiStrToLower(name);
}
std::string WithoutDot(absl::string_view name) {
  return std::string(absl::StripSuffix(name, "."));
}

TEST(AliasHint, NamesTheOtherName) {
  EXPECT_TRUE(
      absl::StrContains(Hint({"1-golden"}, InLowerCase),
                        "\"1-golden\" can also be asked for as \"1-Golden\""));
  EXPECT_TRUE(absl::StrContains(Hint({"Golden"}, InLowerCase), "\"golden\""));
  EXPECT_TRUE(absl::StrContains(Hint({"golden"}, WithoutDot), "\"golden.\""));
}

TEST(AliasHint, IsEmptyWhereEachFileHasOneName) {
  EXPECT_EQ(Hint({"golden", "Golden", "golden.", "1"}, AsItIs), "");
  EXPECT_EQ(Hint({}, InLowerCase), "");
  EXPECT_EQ(Hint({"1"}, InLowerCase), "");
  // A name of its own, which the list has.
  EXPECT_EQ(Hint({"golden", "Golden"}, InLowerCase), "");
}

TEST(AliasHint, ThereIsNoneForTheExportOfAnyName) {
  Directory directory({"x"}, InLowerCase);
  CheckReport report;
  report.exports.emplace_back();
  EXPECT_EQ(AliasHint(directory, report), "");
}

}  // namespace
}  // namespace nbdinetd
