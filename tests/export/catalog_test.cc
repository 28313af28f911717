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
    const Catalog catalog = Catalog::OfOne(std::move(only), row.name, "");
    for (const std::string& name : row.found) {
      const Catalog::Entry* entry = catalog.Find(name);
      ASSERT_NE(entry, nullptr) << row.what << ": " << name;
      EXPECT_EQ(entry->target.get(), target) << row.what << ": " << name;
    }
    for (const std::string& name : row.unknown) {
      EXPECT_EQ(catalog.Find(name), nullptr) << row.what << ": " << name;
    }
    ASSERT_EQ(catalog.entries().size(), 1u);
    EXPECT_EQ(catalog.entries()[0].name, row.name.value_or(""));
    EXPECT_EQ(catalog.answers_to_any(), !row.name.has_value());
  }
}

TEST(Catalog, HasTheDescription) {
  for (const char* description : {"", "a disk"}) {
    const Catalog catalog =
        Catalog::OfOne(std::make_unique<nbdtest::FakeExport>(Export::Facts{}),
                       absl::nullopt, description);
    EXPECT_EQ(catalog.entries()[0].description, description);
  }
}

Catalog Named(const std::vector<std::string>& names) {
  std::vector<Catalog::Entry> entries;
  for (const std::string& name : names) {
    entries.push_back(
        {name, "", std::make_unique<nbdtest::FakeExport>(Export::Facts{})});
  }
  return Catalog::OfNamed(std::move(entries));
}

TEST(Catalog, OfSeveralHasNoDefaultExport) {
  const Catalog catalog = Named({"a", "b"});
  EXPECT_EQ(catalog.Find("a"), &catalog.entries()[0]);
  EXPECT_EQ(catalog.Find("b"), &catalog.entries()[1]);
  EXPECT_EQ(catalog.Find(""), nullptr);
  EXPECT_EQ(catalog.Find("c"), nullptr);
}

TEST(Catalog, OfOneNamedMakesItTheDefaultExport) {
  const Catalog catalog = Named({"a"});
  EXPECT_EQ(catalog.Find(""), &catalog.entries()[0]);
  EXPECT_EQ(catalog.Find("b"), nullptr);
}

}  // namespace
}  // namespace nbdinetd
