#include "export/catalog.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/fake_export.h"

namespace nbdinetd {
namespace {

using Names = std::vector<std::string>;

std::vector<std::pair<std::string, std::string>> ListOf(Catalog& catalog) {
  std::vector<std::pair<std::string, std::string>> list;
  EXPECT_TRUE(catalog
                  .List([&](absl::string_view name, absl::string_view text) {
                    list.emplace_back(name, text);
                    return true;
                  })
                  .ok());
  return list;
}

// The export that is opened under a name; nullptr when there is none, and then
// Find() has to say the same.
Export* OpenedAs(Catalog& catalog, const std::string& name) {
  const absl::StatusOr<Catalog::Opened> opened = catalog.Open(name);
  EXPECT_EQ(catalog.Find(name).code(), opened.status().code()) << name;
  if (opened.ok()) return opened->target.get();
  EXPECT_TRUE(absl::IsNotFound(opened.status())) << opened.status();
  return nullptr;
}

struct Row {
  const char* what;
  std::optional<std::string> name;
  Names found;
  Names unknown;
};

TEST(Catalog, FindsTheExportUnderItsNames) {
  const Row rows[] = {
      {"without a name, any will do",
       std::nullopt,
       {"", "disk", "another", "\xc3\xa4", std::string(4096, 'n')},
       {}},
      {"with a name, that and the empty one",
       std::string("disk"),
       {"", "disk"},
       {"another", "disk ", "Disk", "dis", "diskk"}},
      {"with an empty name, only that", std::string(), {""}, {"disk", " "}},
  };
  for (const Row& row : rows) {
    auto only = std::make_unique<nbdtest::FakeExport>(Export::Facts{});
    const Export* target = only.get();
    const auto catalog = Catalog::OfOne(std::move(only), row.name, "");
    for (const std::string& name : row.found) {
      EXPECT_EQ(OpenedAs(*catalog, name), target) << row.what << ": " << name;
      EXPECT_EQ(catalog->Open(name)->name, row.name.value_or("")) << row.what;
    }
    for (const std::string& name : row.unknown) {
      EXPECT_EQ(OpenedAs(*catalog, name), nullptr) << row.what << ": " << name;
    }
    ASSERT_EQ(ListOf(*catalog).size(), 1u);
    EXPECT_EQ(ListOf(*catalog)[0].first, row.name.value_or(""));
  }
}

TEST(Catalog, TakesNoNameThatIsNoString) {
  const auto any = Catalog::OfOne(
      std::make_unique<nbdtest::FakeExport>(Export::Facts{}), std::nullopt, "");
  const auto named =
      Catalog::OfOne(std::make_unique<nbdtest::FakeExport>(Export::Facts{}),
                     std::string("disk"), "");
  for (const std::string& name :
       {std::string("a\0b", 3), std::string("\xff"), std::string(4097, 'n')}) {
    for (Catalog* catalog : {any.get(), named.get()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(catalog->Find(name))) << name;
      EXPECT_TRUE(absl::IsInvalidArgument(catalog->Open(name).status()))
          << name;
    }
  }
}

TEST(Catalog, HasTheDescription) {
  for (const char* description : {"", "a disk"}) {
    const auto catalog =
        Catalog::OfOne(std::make_unique<nbdtest::FakeExport>(Export::Facts{}),
                       std::nullopt, description);
    EXPECT_EQ(ListOf(*catalog)[0].second, description);
    EXPECT_EQ(catalog->Open("disk")->description, description);
  }
}

TEST(Catalog, SaysInWordsWhatItServes) {
  const auto words = [](std::optional<std::string> name, bool read_only) {
    return Catalog::OfOne(std::make_unique<nbdtest::FakeExport>(Export::Facts{
                              .size_bytes = 517, .read_only = read_only}),
                          std::move(name), "")
        ->InWords();
  };
  EXPECT_EQ(words(std::nullopt, true),
            "would serve \"/no/such/file\": 517 bytes, read-only, under any "
            "export name\n");
  EXPECT_EQ(words(std::string("disk"), false),
            "would serve \"/no/such/file\": 517 bytes, read-write, under the "
            "export name \"disk\"\n");
}

struct NamedCatalog {
  std::vector<Export*> targets;
  std::unique_ptr<Catalog> catalog;
};

NamedCatalog Named(const Names& names) {
  NamedCatalog named;
  std::vector<Catalog::Entry> entries;
  for (const std::string& name : names) {
    entries.push_back(
        {name, "", std::make_unique<nbdtest::FakeExport>(Export::Facts{})});
    named.targets.push_back(entries.back().target.get());
  }
  named.catalog = Catalog::OfNamed(std::move(entries));
  return named;
}

TEST(Catalog, OfSeveralHasNoDefaultExport) {
  const NamedCatalog named = Named({"a", "b"});
  EXPECT_EQ(OpenedAs(*named.catalog, "a"), named.targets[0]);
  EXPECT_EQ(OpenedAs(*named.catalog, "b"), named.targets[1]);
  EXPECT_EQ(OpenedAs(*named.catalog, ""), nullptr);
  EXPECT_EQ(OpenedAs(*named.catalog, "c"), nullptr);
}

TEST(Catalog, OfOneNamedMakesItTheDefaultExport) {
  const NamedCatalog named = Named({"a"});
  EXPECT_EQ(OpenedAs(*named.catalog, ""), named.targets[0]);
  EXPECT_EQ(OpenedAs(*named.catalog, "b"), nullptr);
}

TEST(Catalog, IsListedInOrderUntilNobodyListens) {
  const NamedCatalog named = Named({"b", "a", "c"});
  EXPECT_EQ(ListOf(*named.catalog).size(), 3u);
  Names heard;
  EXPECT_TRUE(named.catalog
                  ->List([&](absl::string_view name, absl::string_view) {
                    heard.emplace_back(name);
                    return heard.size() < 2;
                  })
                  .ok());
  EXPECT_EQ(heard, (Names{"b", "a"}));
}

}  // namespace
}  // namespace nbdinetd
