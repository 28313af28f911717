// Which exports have units.
#include "generator/generated_exports.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

TEST(GeneratedExports, OneErrorHarmsNoOtherExport) {
  const nbdtest::TempDir folder;
  const auto path = [&](const std::string& name) {
    return absl::StrCat(folder.path(), "/", name);
  };
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(path(name)) << text;
  };
  write("a.export", "[Export]\nFile=/f\n[Socket]\nListenStream=1\n");
  write("b.export", "[Export]\nFile=/f\n[Socket]\nListenStream=0.0.0.0:1\n");
  write("c.export", "[Export]\nFle=/f\n");
  write("d.export",
        "[Export]\nFile=/f\nEnabled=no\n[Socket]\nListenStream=1\n");
  write("e.export", "[Export]\nFile=/f\n[Socket]\nListenStream=2\n");
  write("f.export",
        "[Export]\nFile=/f\n[Socket]\nListenStream=2\nReusePort=yes\n");
  std::vector<std::string> good, made_units;
  for (const GeneratedExport& made : GenerateExports(
           FindExports({folder.path()}).exports, ManagerScope::kSystem)) {
    if (made.status.ok()) good.push_back(made.sources.name);
    if (!made.units.files.empty()) made_units.push_back(made.sources.name);
    if (made.sources.name == "b") {
      // Nothing starts it. If it listens already, it goes on.
      EXPECT_TRUE(made.units.links.empty());
      EXPECT_EQ(made.status.message(),
                absl::StrCat(path("b.export"),
                             ":4: ListenStream=0.0.0.0:1: export a listens on "
                             "1 already; choose another address, or set "
                             "Enabled=no in one of the files"));
    }
  }
  EXPECT_EQ(good, (std::vector<std::string>{"a", "d", "e", "f"}));
  EXPECT_EQ(made_units, (std::vector<std::string>{"a", "b", "d", "e", "f"}));
}

}  // namespace
}  // namespace nbdinetd
