#include "export/catalog.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "support/fake_export.h"

namespace nbdinetd {
namespace {

struct Row {
  const char* what;
  absl::optional<std::string> name;
  std::vector<std::string> found;
  std::vector<std::string> unknown;
};

TEST(Catalog, FindsTheExportUnderItsNames) {
  const Row rows[] = {
      {"without a name, any will do",
       absl::nullopt,
       {"", "disk", "another", "\xc3\xa4", std::string(4096, 'n')},
       {}},
      {"with a name, that and the empty one",
       std::string("disk"),
       {"", "disk"},
       {"another", "disk ", "Disk", "dis", "diskk", std::string("disk\0", 5)}},
      {"with an empty name, only that", std::string(), {""}, {"disk", " "}},
  };
  for (const Row& row : rows) {
    auto only = std::make_unique<nbdtest::FakeExport>(Export::Facts{});
    const Export* target = only.get();
    const Catalog catalog(std::move(only), row.name, "");
    for (const std::string& name : row.found) {
      EXPECT_EQ(catalog.Find(name), target) << row.what << ": " << name;
    }
    for (const std::string& name : row.unknown) {
      EXPECT_EQ(catalog.Find(name), nullptr) << row.what << ": " << name;
    }
    EXPECT_EQ(catalog.name(), row.name.value_or(""));
  }
}

TEST(Catalog, HasTheDescription) {
  const Catalog plain(std::make_unique<nbdtest::FakeExport>(Export::Facts{}), absl::nullopt, "");
  EXPECT_EQ(plain.description(), "");
  const Catalog described(std::make_unique<nbdtest::FakeExport>(Export::Facts{}), absl::nullopt,
                          "a disk");
  EXPECT_EQ(described.description(), "a disk");
}

}  // namespace
}  // namespace nbdinetd
