// The way into transmission without a handshake phase leads to what the
// handshake phase leads to. How it looks in the real program is in
// negotiated_test.cc.

#include "negotiation/skip_handshake.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "export/catalog.h"
#include "export/exclusive.h"
#include "negotiation/negotiation.h"
#include "support/fake_export.h"
#include "support/memory_stream.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Event;
using nbdtest::FakeExport;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;
using nbdtest::OptionMessage;

constexpr Agreement kAgreements[] = {
    {ReplyStyle::kSimple, false},    {ReplyStyle::kStructured, false},
    {ReplyStyle::kStructured, true}, {ReplyStyle::kExtended, false},
    {ReplyStyle::kExtended, true},
};

std::unique_ptr<Catalog> CatalogOf(const Export::Facts& facts) {
  return Catalog::OfOne(std::make_unique<FakeExport>(facts), "disk", "");
}

// A connection whose client has sent `bytes`, and left.
struct Connected {
  explicit Connected(const Bytes& bytes) {
    peer.Send(bytes);
    peer.Close();
  }

  MemoryPeer peer;
  Event shutdown;
  Channel channel{std::make_unique<MemoryStream>(peer), shutdown.fd()};
};

// What option haggling leads to.
Negotiated Haggled(Catalog& catalog, const NegotiationSettings& settings,
                   const Agreement& agreement) {
  nbdtest::Writer flags;
  flags.U32(nbdtest::kClientFixedNewstyle | nbdtest::kClientNoZeroes);
  Bytes bytes = flags.bytes();
  if (agreement.style == ReplyStyle::kStructured) {
    bytes += OptionMessage(nbdtest::kOptStructuredReply, "");
  } else if (agreement.style == ReplyStyle::kExtended) {
    bytes += OptionMessage(nbdtest::kOptExtendedHeaders, "");
  }
  if (agreement.base_allocation) {
    bytes +=
        OptionMessage(nbdtest::kOptSetMetaContext,
                      nbdtest::MetaContextPayload(
                          "disk", std::vector<std::string>{"base:allocation"}));
  }
  bytes += OptionMessage(nbdtest::kOptGo,
                         nbdtest::InfoPayload("disk", std::vector<uint16_t>{}));
  Connected connected(bytes);
  const Log log({LogDestination::kNull, /*verbose=*/false,
                 /*standard_error_is_peer=*/true});
  return std::get<Negotiated>(
      Negotiation(connected.channel, catalog, log, settings).Run());
}

TEST(SkipHandshake, PromisesWhatOptionHagglingPromises) {
  const Export::Facts kinds[] = {
      {.size_bytes = 1 << 20},
      {.size_bytes = 3, .read_only = true, .rotational = true},
      {.size_bytes = 1 << 20, .private_copy = true},
      {.size_bytes = 1 << 20,
       .block_sizes = {.minimum = 512, .preferred = 4096, .chosen = true}},
  };
  for (const Export::Facts& facts : kinds) {
    for (const Agreement& agreement : kAgreements) {
      for (const bool multi_conn : {false, true}) {
        const NegotiationSettings settings = {.multi_conn = multi_conn};
        const std::unique_ptr<Catalog> catalog = CatalogOf(facts);
        const Negotiated wanted = Haggled(*catalog, settings, agreement);
        Connected connected("");
        const auto outcome =
            SkipHandshake(connected.channel, *catalog, settings, agreement);
        ASSERT_TRUE(std::holds_alternative<Negotiated>(outcome));
        const Negotiated& got = std::get<Negotiated>(outcome);
        EXPECT_EQ(got.target, wanted.target);
        EXPECT_EQ(got.export_name, "disk");
        EXPECT_EQ(got.catalog_name, wanted.catalog_name);
        EXPECT_EQ(got.style, wanted.style);
        EXPECT_EQ(got.style, agreement.style);
        EXPECT_EQ(got.promises.size_bytes, wanted.promises.size_bytes);
        EXPECT_EQ(got.promises.transmission_flags,
                  wanted.promises.transmission_flags);
        EXPECT_EQ(got.promises.block_status, wanted.promises.block_status);
        EXPECT_EQ(got.promises.block_status, agreement.base_allocation);
        EXPECT_EQ(got.promises.headers, wanted.promises.headers);
        EXPECT_EQ(got.promises.block_sizes.minimum,
                  wanted.promises.block_sizes.minimum);
        EXPECT_EQ(connected.peer.Receive(), "");
      }
    }
  }
}

TEST(SkipHandshake, LeavesTheFirstRequestsToTheTransmission) {
  const std::unique_ptr<Catalog> catalog = CatalogOf({.size_bytes = 1 << 20});
  const Bytes request = nbdtest::RequestMessage({.type = nbdtest::kCmdFlush});
  Connected connected(request);
  ASSERT_TRUE(std::holds_alternative<Negotiated>(
      SkipHandshake(connected.channel, *catalog, {}, {})));
  while (connected.channel.Receive() == Channel::Receipt::kData) {
  }
  EXPECT_EQ(connected.channel.input(), request);
  // The time limit of the handshake doesn't hold any more.
  EXPECT_EQ(connected.channel.HandshakeLimit(), absl::InfiniteFuture());
}

// As a rule says (RuledCatalog).
class Ruled : public Catalog {
 public:
  explicit Ruled(absl::Status status) : status_(std::move(status)) {}

  absl::Status Find(absl::string_view) override { return status_; }
  absl::StatusOr<Opened> Open(absl::string_view name) override {
    if (!status_.ok()) return status_;
    return Opened{.target = std::make_shared<FakeExport>(
                      Export::Facts{.size_bytes = 512}),
                  .name = std::string(name),
                  .description = "",
                  .read_only_reason = "",
                  .exclusive = Exclusive::kOff,
                  .rule = "rules:1"};
  }
  absl::Status List(Visitor) override { return absl::OkStatus(); }
  std::string InWords() override { return ""; }

 private:
  const absl::Status status_;
};

TEST(SkipHandshake, RulesHold) {
  Ruled ruled(absl::OkStatus());
  Connected connected("");
  // In place of a lock that couldn't be had: the export has no file.
  const auto outcome =
      SkipHandshake(connected.channel, ruled,
                    {.exclusive = Exclusive::kRefuse, .force_share = true}, {});
  ASSERT_TRUE(std::holds_alternative<Negotiated>(outcome));
  const Negotiated& got = std::get<Negotiated>(outcome);
  EXPECT_EQ(got.exclusive, Exclusive::kOff);
  EXPECT_EQ(got.rule, "rules:1");
  EXPECT_NE(got.promises.transmission_flags & nbdtest::kCanMultiConn, 0);
  absl::Status hidden = absl::NotFoundError("none");
  hidden.SetPayload(kHiddenUrl, absl::Cord("by line 7"));
  Ruled refusing(hidden);
  Connected refused("");
  const auto end = SkipHandshake(refused.channel, refusing, {}, {});
  ASSERT_TRUE(std::holds_alternative<Ending>(end));
  EXPECT_EQ(std::get<Ending>(end).status, ExitStatus::kRefused);
  EXPECT_NE(std::get<Ending>(end).reason.find("by line 7"), std::string::npos);
  EXPECT_EQ(refused.peer.Receive(), "");
}

TEST(SkipHandshake, EndsWithoutAByteIfThereIsNoDefaultExport) {
  std::vector<Catalog::Entry> entries;
  for (const char* name : {"a", "b"}) {
    entries.push_back(
        {name, "",
         std::make_shared<FakeExport>(Export::Facts{.size_bytes = 512})});
  }
  const std::unique_ptr<Catalog> catalog = Catalog::OfNamed(std::move(entries));
  Connected connected("");
  const auto outcome = SkipHandshake(connected.channel, *catalog, {}, {});
  ASSERT_TRUE(std::holds_alternative<Ending>(outcome));
  EXPECT_EQ(std::get<Ending>(outcome).status, ExitStatus::kNoInput);
  EXPECT_EQ(connected.peer.Receive(), "");
}

}  // namespace
}  // namespace nbdinetd
