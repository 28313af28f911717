// What a client sees of a catalog by the rules: what it may use, and no trace
// of the rest.
#include "access/ruled_catalog.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "access/asked_client.h"
#include "support/fake_export.h"

namespace nbdinetd {
namespace {

using nbdtest::FakeExport;

// Notes what is looked up.
class Watched : public Catalog {
 public:
  absl::Status Find(absl::string_view name) override {
    calls.push_back("find " + std::string(name));
    return Known(name) ? absl::OkStatus() : absl::NotFoundError("none");
  }
  absl::StatusOr<Opened> Open(absl::string_view name) override {
    calls.push_back("open " + std::string(name));
    if (!Known(name)) return absl::NotFoundError("none");
    return Opened{.target = std::make_shared<FakeExport>(Export::Facts{}),
                  .name = CanonicalName(name),
                  .description = ""};
  }
  absl::StatusOr<Opened> OpenReadOnly(absl::string_view name) override {
    calls.push_back("read");
    return Catalog::OpenReadOnly(name);
  }
  std::string CanonicalName(absl::string_view name) const override {
    return name.empty() ? "golden" : std::string(name);
  }
  absl::Status List(Visitor visit) override {
    for (const char* name : {"golden", "scratch", "secret"}) {
      if (!visit(name, "")) break;
    }
    return list_status;
  }
  std::string InWords() override { return ""; }

  std::vector<std::string> calls;
  absl::Status list_status;

 private:
  static bool Known(absl::string_view name) {
    return name.empty() || name == "golden" || name == "scratch" ||
           name == "secret";
  }
};

class RuledCatalogTest : public testing::Test {
 protected:
  // The catalog as a client at 192.0.2.7 sees it.
  RuledCatalog& By(const std::string& content) {
    EXPECT_TRUE(client_.Add("192.0.2.7").ok());
    absl::StatusOr<ClientRules> rules =
        ClientRules::Parse(content, "rules", client_.peer);
    EXPECT_TRUE(rules.ok()) << rules.status();
    rules_.emplace(*std::move(rules));
    return shown_.emplace(inner_, rules_->For(client_.tls), copy_);
  }

  Watched inner_;
  AskedClient client_;
  std::optional<PrivateCopy> copy_;
  std::optional<ClientRules> rules_;
  std::optional<RuledCatalog> shown_;
};

TEST_F(RuledCatalogTest, WhatMayBeUsedIsThere) {
  RuledCatalog& shown = By("* golden ro\n* scratch rw exclusive=wait\n");
  EXPECT_TRUE(shown.Find("golden").ok());
  absl::StatusOr<Catalog::Opened> opened = shown.Open("golden");
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE(opened->target->facts().read_only);
  EXPECT_TRUE(opened->target->lock_fd_is_read_only());
  EXPECT_EQ(opened->target->Write(0, {}, false), EPERM);
  EXPECT_EQ(opened->target->Trim(0, 1), EPERM);
  EXPECT_EQ(opened->target->Zero(0, 1, Export::Hole::kAllowed,
                                 Export::Speed::kAny, nullptr),
            EPERM);
  EXPECT_EQ(opened->rule, "rules:1");
  EXPECT_EQ(opened->exclusive, std::nullopt);
  opened = shown.Open("scratch");
  ASSERT_TRUE(opened.ok());
  EXPECT_FALSE(opened->target->facts().read_only);
  EXPECT_EQ(opened->rule, "rules:2");
  EXPECT_EQ(opened->exclusive, Exclusive::kWait);
  // The default export is the one that it is the name of.
  EXPECT_TRUE(shown.Find("").ok());
  EXPECT_FALSE(By("* scratch rw\n").Find("").ok());
}

TEST_F(RuledCatalogTest, WhatIsReadOnlyStaysSoWhenItIsClaimed) {
  RuledCatalog& shown = By("* golden ro\n* scratch rw\n");
  const auto writable = std::make_shared<FakeExport>(Export::Facts{});
  for (const auto& [name, read_only] :
       std::vector<std::pair<std::string, bool>>{
           {"golden", true}, {"scratch", false}, {"secret", true}}) {
    const auto reserved = shown.Reserve(writable, name, Claimant());
    ASSERT_TRUE(reserved.ok());
    const auto claimed = shown.Claim(*reserved);
    ASSERT_TRUE(claimed.ok());
    EXPECT_EQ((*claimed)->facts().read_only, read_only) << name;
  }
}

// A name that exists and may not be used can't be told from one that doesn't
// exist: neither is looked up, and what is looked up in their place has the
// same form.
TEST_F(RuledCatalogTest, NothingIsLookedUpUnderAHiddenName) {
  RuledCatalog& shown = By("* golden ro\n");
  for (const char* name : {"secret", "absent"}) {
    inner_.calls.clear();
    const absl::Status found = shown.Find(name);
    const absl::Status opened = shown.Open(name).status();
    EXPECT_TRUE(absl::IsNotFound(found));
    EXPECT_TRUE(absl::IsNotFound(opened));
    EXPECT_TRUE(found.GetPayload(kHiddenUrl).has_value());
    EXPECT_EQ(inner_.calls,
              std::vector<std::string>(2, "find " + std::string(6, '\x01')));
  }
  // The one of a partition has another form.
  inner_.calls.clear();
  EXPECT_FALSE(shown.Find("secret:2").ok());
  EXPECT_EQ(inner_.calls,
            std::vector<std::string>{"find " + std::string(6, '\x01') + ":2"});
  // The asked name itself is never looked up.
  inner_.calls.clear();
  EXPECT_FALSE(shown.Find("\x01\x01").ok());
  EXPECT_EQ(inner_.calls, std::vector<std::string>{"find \x02\x01"});
}

TEST_F(RuledCatalogTest, TheListHasWhatMayBeUsed) {
  const auto list = [](RuledCatalog& shown) {
    std::string names;
    const absl::Status status =
        shown.List([&](absl::string_view name, absl::string_view) {
          names += std::string(name) + " ";
          return true;
        });
    return status.ok() ? names : names + "error";
  };
  EXPECT_EQ(list(By("* golden s* ro\n")), "golden scratch secret ");
  EXPECT_EQ(list(By("* s*t ro\n")), "secret ");
  EXPECT_EQ(list(By("* -\n")), "");
  inner_.list_status = absl::ResourceExhaustedError("too many");
  EXPECT_EQ(list(By("* -\n")), "");
  EXPECT_EQ(list(By("* x ro\n")), "error");
}

TEST_F(RuledCatalogTest, ACopyIsOfWhatIsOnlyRead) {
  CopySettings settings;
  settings.in_memory = true;
  absl::StatusOr<PrivateCopy> copy = PrivateCopy::Create(settings);
  ASSERT_TRUE(copy.ok());
  copy_ = *std::move(copy);
  RuledCatalog& shown = By("* golden cow\n* scratch rw\n");
  const int fd = shown.copy_fd();
  EXPECT_GE(fd, 0);
  const auto opened = shown.Open("golden");
  ASSERT_TRUE(opened.ok());
  EXPECT_FALSE(opened->target->facts().read_only);
  EXPECT_TRUE(opened->target->facts().private_copy);
  EXPECT_TRUE(opened->target->lock_fd_is_read_only());
  EXPECT_EQ(opened->target->Write(0, {}, false), EPERM);
  ASSERT_EQ(inner_.calls.front(), "read");
  // An export that the client may write to needs none.
  ASSERT_TRUE(shown.Reserve(opened->target, "scratch", Claimant()).ok());
  ASSERT_TRUE(shown.Claim(opened->target).ok());
  EXPECT_EQ(shown.copy_fd(), fd);
}

}  // namespace
}  // namespace nbdinetd
