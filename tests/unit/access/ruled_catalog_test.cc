// What a client sees of a catalog by the rules: what it may use, and no trace
// of the rest.
#include "access/ruled_catalog.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "access/asked_client.h"
#include "base/unique_fd.h"
#include "export/base_lock.h"
#include "export/copy_on_write.h"
#include "export/copy_parts.h"
#include "export/kept_copy.h"
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
    return Opened{.target = std::make_shared<FakeExport>(facts),
                  .name = CanonicalName(name),
                  .description = "",
                  .read_only_reason = ""};
  }
  absl::StatusOr<Opened> OpenReadOnly(absl::string_view name) override {
    calls.push_back("read");
    return Catalog::OpenReadOnly(name);
  }
  std::string CanonicalName(absl::string_view name) const override {
    return name.empty() ? "golden" : std::string(name);
  }
  std::string WholeOf(absl::string_view name) const override {
    const size_t colon = name.rfind(':');
    return std::string(has_partitions && colon != absl::string_view::npos
                           ? name.substr(0, colon)
                           : "");
  }
  int copies_fd() const override { return keeps_copies ? 0 : -1; }
  absl::Status List(Visitor visit) override {
    for (const char* name : {"golden", "scratch", "secret"}) {
      if (!visit(name, "")) break;
    }
    return list_status;
  }
  std::string InWords() override { return ""; }

  std::vector<std::string> calls;
  absl::Status list_status;
  Export::Facts facts;
  bool has_partitions = false;
  bool keeps_copies = false;

 private:
  static bool Known(absl::string_view name) {
    return name.empty() || name == "golden" || name == "scratch" ||
           name == "secret" || name == "golden:1";
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
    return shown_.emplace(inner_, rules_->For(client_.tls), copy_,
                          [this] { return names_left_-- > 0; });
  }

  Watched inner_;
  AskedClient client_;
  void MakeCopy() {
    CopySettings settings;
    settings.in_memory = true;
    absl::StatusOr<PrivateCopy> copy = PrivateCopy::Create(settings);
    ASSERT_TRUE(copy.ok()) << copy.status();
    copy_.file = *std::move(copy);
  }

  // How many names of lists there is time for.
  int names_left_ = 1000;
  CopyForClient copy_;
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
  EXPECT_EQ(list(By("* x* ro\n")), "error");
}

// What others there are has no effect on the list of who has names of his own.
TEST_F(RuledCatalogTest, AListOfNamesLooksAtNoOtherOne) {
  class Directory : public Watched {
   public:
    void ListOne(absl::string_view name, Visitor visit) override {
      calls.push_back("list " + std::string(name));
      if (name != "absent") visit(name, "");
    }
    absl::Status List(Visitor) override { return list_status; }
  } inner;
  inner.list_status = absl::ResourceExhaustedError("too many");
  By("* secret absent golden ro\n");
  CopyForClient copy;
  int names_left = 1000;
  RuledCatalog shown(inner, rules_->For(client_.tls), copy,
                     [&] { return names_left-- > 0; });
  std::vector<std::string> names;
  const auto note = [&](absl::string_view name, absl::string_view) {
    names.emplace_back(name);
    return true;
  };
  EXPECT_TRUE(shown.List(note).ok());
  EXPECT_EQ(names, (std::vector<std::string>{"golden", "secret"}));
  EXPECT_EQ(inner.calls, (std::vector<std::string>{"list absent", "list golden",
                                                   "list secret"}));
  // A client that reads no more ends it.
  inner.calls.clear();
  EXPECT_TRUE(
      shown.List([](absl::string_view, absl::string_view) { return false; })
          .ok());
  EXPECT_EQ(inner.calls,
            (std::vector<std::string>{"list absent", "list golden"}));
}

TEST_F(RuledCatalogTest, HiddenNamesTakeNoMoreThanTheTimeOfTheHandshake) {
  int seen = 0;
  const auto count = [&](absl::string_view, absl::string_view) {
    ++seen;
    return true;
  };
  for (const char* content : {"* s*t ro\n", "* secret x y z ro\n"}) {
    RuledCatalog& shown = By(content);
    names_left_ = 2;  // golden and scratch, or the first two of the line
    seen = 0;
    EXPECT_TRUE(absl::IsCancelled(shown.List(count))) << content;
    names_left_ = 1000;
    EXPECT_TRUE(shown.List(count).ok());
    EXPECT_GT(seen, 0);
  }
}

TEST_F(RuledCatalogTest, ACopyIsOfWhatIsOnlyRead) {
  MakeCopy();
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

TEST_F(RuledCatalogTest, WithoutACopyNothingIsWrittenTo) {
  RuledCatalog& shown = By("* golden cow\n");
  EXPECT_TRUE(absl::IsInternal(shown.Open("golden").status()));
  EXPECT_TRUE(inner_.calls.empty());
  const auto writable = std::make_shared<FakeExport>(Export::Facts{});
  ASSERT_TRUE(shown.Reserve(writable, "golden", Claimant()).ok());
  EXPECT_TRUE(absl::IsInternal(shown.Claim(writable).status()));
  // With --cow, the catalog below has made it.
  copy_.is_made_by_catalog = true;
  EXPECT_TRUE(shown.Open("golden").ok());
  EXPECT_EQ(inner_.calls, std::vector<std::string>{"open golden"});
  ASSERT_TRUE(shown.Reserve(writable, "golden", Claimant()).ok());
  EXPECT_TRUE(shown.Claim(writable).ok());
}

// A merge into the base of a copy would change what the client reads.
TEST_F(RuledCatalogTest, ACopyKeepsMergesAwayFromItsBase) {
  MakeCopy();
  RuledCatalog& shown = By("* golden cow\n");
  char path[] = "/tmp/ruled-catalog-XXXXXX";
  const auto base =
      std::make_shared<FakeExport>(UniqueFd(mkstemp(path)), Export::Facts{});
  std::optional<FakeExport> merged(
      std::in_place, UniqueFd(open(path, O_RDWR | O_CLOEXEC)), Export::Facts{});
  unlink(path);
  ASSERT_EQ(LockBaseForMerge(*merged), 0);
  ASSERT_TRUE(shown.Reserve(base, "golden", Claimant()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(shown.Claim(base).status()));
  // Nothing has been taken from the client.
  EXPECT_TRUE(copy_.file.has_value());
  UniqueFd again(open(absl::StrCat("/proc/self/fd/", merged->lock_fd()).c_str(),
                      O_RDWR | O_CLOEXEC));
  merged.reset();
  const absl::Status claimed = shown.Claim(base).status();
  EXPECT_FALSE(absl::IsFailedPrecondition(claimed)) << claimed;
  const FakeExport merged_later(std::move(again), Export::Facts{});
  EXPECT_EQ(LockBaseForMerge(merged_later), EAGAIN);
}

TEST_F(RuledCatalogTest, ALockThatIsSharedIsNone) {
  MakeCopy();
  inner_.facts.sharing = Export::Sharing::kShared;
  EXPECT_FALSE(By("* golden rw exclusive=refuse\n").Open("golden").ok());
  EXPECT_FALSE(By("* golden ro exclusive=refuse\n").Open("golden").ok());
  EXPECT_FALSE(By("* golden cow exclusive=refuse\n").Open("golden").ok());
  EXPECT_TRUE(By("* golden rw\n").Open("golden").ok());
  EXPECT_TRUE(By("* golden cow exclusive=off\n").Open("golden").ok());
  // What a private copy hides: its locks are those of its base.
  copy_.is_made_by_catalog = true;
  inner_.facts = CopyFacts(inner_.facts);
  EXPECT_FALSE(By("* golden cow exclusive=refuse\n").Open("golden").ok());
  // A kept copy has locks of its own.
  inner_.facts = KeptFacts(inner_.facts);
  EXPECT_TRUE(By("* golden rw exclusive=refuse\n").Open("golden").ok());
}

TEST_F(RuledCatalogTest, TwoConnectionsNeverHaveOneKeptCopy) {
  EXPECT_EQ(By("* golden rw exclusive=off\n").Open("golden")->exclusive,
            Exclusive::kOff);
  inner_.keeps_copies = true;
  EXPECT_EQ(By("* golden rw exclusive=off\n").Open("golden")->exclusive,
            std::nullopt);
  EXPECT_EQ(By("* golden rw exclusive=wait\n").Open("golden")->exclusive,
            Exclusive::kWait);
}

TEST_F(RuledCatalogTest, ALineHasLimits) {
  RuledCatalog& shown =
      By("* golden ro max-iops=100 max-rate=1M:4K max-rate=0\n* scratch rw\n");
  const TransferLimits limits = shown.Open("golden")->limits;
  EXPECT_EQ(limits.bytes.given, 2);
  EXPECT_FALSE(limits.bytes.together);
  EXPECT_EQ(limits.bytes.reads.per_second, 1u << 20);
  EXPECT_EQ(limits.bytes.reads.burst, 4u << 10);
  EXPECT_FALSE(limits.bytes.writes.limits());
  EXPECT_EQ(limits.requests.given, 1);
  EXPECT_TRUE(limits.requests.together);
  EXPECT_EQ(limits.requests.reads.per_second, 100u);
  const TransferLimits none = shown.Open("scratch")->limits;
  EXPECT_EQ(none.bytes.given + none.requests.given, 0);
}

TEST_F(RuledCatalogTest, ALineHasLimitsForAnExportWithoutAName) {
  const auto only = std::make_shared<FakeExport>(Export::Facts{});
  const auto catalog = Catalog::OfOne(only, std::nullopt, "");
  By("* * ro max-iops=5\n");
  EXPECT_EQ(LimitsFor(rules_->For(client_.tls), *catalog, "")
                .requests.reads.per_second,
            5u);
}

TEST_F(RuledCatalogTest, APartitionHasTheLimitsOfItsDiskButForItsOwn) {
  inner_.has_partitions = true;
  struct {
    const char* rules;
    uint64_t rate;
    uint64_t iops;
  } const kRows[] = {
      {"* golden rw max-rate=1 max-iops=2\n* golden:* rw\n", 1, 2},
      {"* golden rw max-rate=1 max-iops=2\n* golden:* rw max-iops=3\n", 1, 3},
      {"* golden rw\n* golden:* ro max-rate=4\n", 4, 0},
      {"* golden ro max-rate=1\n* golden:* rw max-rate=5\n", 5, 0},
      {"* golden:1 rw max-rate=6\n", 6, 0},
  };
  for (const auto& row : kRows) {
    const TransferLimits limits = By(row.rules).Open("golden:1")->limits;
    EXPECT_EQ(limits.bytes.reads.per_second, row.rate) << row.rules;
    EXPECT_EQ(limits.requests.reads.per_second, row.iops) << row.rules;
  }
}

TEST_F(RuledCatalogTest, APartitionIsAPartOfItsDisk) {
  inner_.has_partitions = true;
  struct {
    const char* rules;
    const char* use;
  } const kRows[] = {
      {"* golden ro\n* * rw\n", "read-only 1"},
      {"* golden rw\n* * ro\n", "read-only 2"},
      {"* golden cow\n* golden:* rw\n", "copy-on-write 1"},
      {"* golden rw\n* golden:* rw\n", "read-write 2"},
      // Who may use the partition alone.
      {"* golden:1 rw\n", "read-write 1"},
      {"* golden:2 rw\n", ""},
      {"* golden rw\n", ""},
      // The lock of either.
      {"* golden rw exclusive=refuse\n* * rw\n", "read-write 2 refuse"},
      {"* golden rw\n* * rw exclusive=wait\n", "read-write 2 wait"},
      {"* golden rw exclusive=refuse\n* * rw exclusive=wait\n",
       "read-write 2 wait"},
      {"* golden rw exclusive=off\n* * rw\n", "read-write 2"},
      {"* golden rw\n* * rw exclusive=off\n", "read-write 2"},
      {"* golden rw exclusive=off\n* * rw exclusive=off\n", "read-write 2 off"},
  };
  constexpr const char* kLocks[] = {" off", " refuse", " wait", " takeover"};
  const auto use = [&](const char* content) -> std::string {
    By(content);
    const auto decision =
        DecisionFor(rules_->For(client_.tls), inner_, "golden:1");
    if (!decision.has_value()) return "";
    const Grant& grant = decision->grant;
    return absl::StrCat(
        InWords(*grant.mode), " ", decision->line,
        grant.exclusive ? kLocks[static_cast<int>(*grant.exclusive)] : "");
  };
  for (const auto& row : kRows) EXPECT_EQ(use(row.rules), row.use) << row.rules;
  // All that is done by it.
  RuledCatalog& shown = By("* golden ro\n* * rw\n");
  auto opened = shown.Open("golden:1");
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->target->Write(0, {}, false), EPERM);
  EXPECT_EQ(opened->rule, "rules:1");
  const auto writable = std::make_shared<FakeExport>(Export::Facts{});
  ASSERT_TRUE(shown.Reserve(writable, "golden:1", Claimant()).ok());
  const auto claimed = shown.Claim(writable);
  ASSERT_TRUE(claimed.ok());
  EXPECT_TRUE((*claimed)->facts().read_only);
  // Without partitions, it is a name like others.
  inner_.has_partitions = false;
  EXPECT_EQ(use("* golden ro\n* * rw\n"), "read-write 2");
}

}  // namespace
}  // namespace nbdinetd
