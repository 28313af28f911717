// Each option by itself: a payload goes in, replies and what follows come out.
// How the loop reads and sends them is in negotiation_test.cc.

#include "negotiation/option_handlers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/limits.h"
#include "support/fake_export.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::FakeExport;
using nbdtest::InfoPayload;
using nbdtest::MetaContextPayload;
using nbdtest::Reader;
using nbdtest::Writer;

using Facts = OptionHandlers::Facts;
using Infos = std::vector<uint16_t>;
using Queries = std::vector<std::string>;

constexpr uint32_t kKnown[] = {nbdtest::kOptExportName,
                               nbdtest::kOptAbort,
                               nbdtest::kOptList,
                               nbdtest::kOptStartTls,
                               nbdtest::kOptInfo,
                               nbdtest::kOptGo,
                               nbdtest::kOptStructuredReply,
                               nbdtest::kOptListMetaContext,
                               nbdtest::kOptSetMetaContext,
                               nbdtest::kOptExtendedHeaders};
constexpr uint32_t kUnknown = 99;

// Has many exports, or an error.
class ManyExports : public Catalog {
 public:
  absl::Status Find(absl::string_view) override { return status; }
  absl::StatusOr<Opened> Open(absl::string_view name) override {
    if (!status.ok()) return status;
    Opened opened{std::make_shared<FakeExport>(Export::Facts{}),
                  std::string(name), "", ""};
    opened.exclusive = exclusive;
    opened.rule = "rules:1";
    return opened;
  }
  absl::Status List(Visitor visit) override {
    if (!status.ok()) return status;
    for (listed = 0; listed < exports; ++listed) {
      if (!visit("export", "one of many")) break;
    }
    return list_end;
  }
  std::string InWords() override { return ""; }

  absl::Status status = absl::OkStatus();
  absl::Status list_end = absl::OkStatus();
  std::optional<Exclusive> exclusive;
  size_t exports = 1;
  size_t listed = 0;
};

// What an option comes to.
struct Answered {
  OptionHandlers::Next next;
  Bytes sent;  // all replies
  absl::Status trouble;
  size_t most_held = 0;  // the most that was held at a time, in bytes
};

class OptionHandlersTest : public testing::Test {
 protected:
  explicit OptionHandlersTest(const Facts& facts = {})
      : handlers_(catalog_, facts) {}

  Answered Answer(uint32_t option, const Bytes& payload = "",
                  bool input_follows = false) {
    return Answer(handlers_, option, payload, input_follows);
  }

  // `parts` is how many parts of the answer can be sent.
  static Answered Answer(OptionHandlers& handlers, uint32_t option,
                         const Bytes& payload, bool input_follows = false,
                         size_t parts = SIZE_MAX) {
    Answered answered;
    OptionReplies replies(option);
    const auto send = [&](OptionReplies& so_far) {
      answered.most_held = std::max(answered.most_held, so_far.bytes().size());
      answered.sent += so_far.bytes();
      so_far.Clear();
      return parts-- > 0;
    };
    OptionHandlers::Call call = {.payload = payload,
                                 .input_follows = input_follows,
                                 .send_so_far = send,
                                 .replies = replies};
    handlers.Begin(option);
    answered.next = handlers.Answer(option, call);
    answered.sent += replies.bytes();
    answered.trouble = call.trouble;
    return answered;
  }

  ManyExports catalog_;
  OptionHandlers handlers_;
};

// The types of replies, in their order.
std::vector<uint32_t> TypesOf(const Bytes& sent) {
  std::vector<uint32_t> types;
  Reader reader(sent);
  while (reader.left() > 0) {
    EXPECT_EQ(reader.U64(), nbdtest::kOptionReplyMagic);
    reader.U32();
    types.push_back(reader.U32());
    reader.Raw(reader.U32());
  }
  return types;
}

using Types = std::vector<uint32_t>;

// -- The table

TEST_F(OptionHandlersTest, KnowTheNameOfEachOption) {
  for (const uint32_t option : kKnown) {
    EXPECT_EQ(std::string(OptionHandlers::NameOf(option)).substr(0, 8),
              "NBD_OPT_")
        << option;
  }
  EXPECT_STREQ(OptionHandlers::NameOf(kUnknown), "unknown");
}

TEST_F(OptionHandlersTest, OnlyExportNameHasNoErrorReply) {
  for (const uint32_t option : kKnown) {
    EXPECT_EQ(OptionHandlers::HasErrorReply(option),
              option != nbdtest::kOptExportName);
  }
  EXPECT_TRUE(OptionHandlers::HasErrorReply(kUnknown));
}

TEST_F(OptionHandlersTest, BeforeARequiredTlsOnlyAbortAndStartTlsAreAllowed) {
  const OptionHandlers plain(catalog_, {.tls = TlsMode::kRequire});
  const OptionHandlers secure(catalog_,
                              {.tls = TlsMode::kRequire, .secure = true});
  const OptionHandlers offered(catalog_, {.tls = TlsMode::kOn});
  for (const uint32_t option : kKnown) {
    const OptionHeader header = {option, 0};
    const std::optional<Refusal> refusal = plain.WhyRefused(header, false);
    const bool allowed =
        option == nbdtest::kOptAbort || option == nbdtest::kOptStartTls;
    ASSERT_EQ(refusal.has_value(), !allowed) << option;
    if (refusal.has_value()) {
      EXPECT_EQ(refusal->reply, NBD_REP_ERR_TLS_REQD) << option;
    }
    EXPECT_FALSE(secure.WhyRefused(header, false).has_value()) << option;
    EXPECT_FALSE(offered.WhyRefused(header, false).has_value()) << option;
  }
  EXPECT_EQ(plain.WhyRefused({kUnknown, 0}, false)->reply,
            NBD_REP_ERR_TLS_REQD);
  EXPECT_EQ(secure.WhyRefused({kUnknown, 0}, false)->reply, NBD_REP_ERR_UNSUP);
}

TEST_F(OptionHandlersTest, RefuseALongerPayloadThanTheOptionMayCarry) {
  for (const uint32_t option : kKnown) {
    const uint32_t most =
        option == nbdtest::kOptExportName ? kMaxStringBytes : kMaxOptionBytes;
    EXPECT_FALSE(handlers_.WhyRefused({option, most}, false).has_value());
    EXPECT_EQ(handlers_.WhyRefused({option, most + 1}, false)->reply,
              NBD_REP_ERR_TOO_BIG);
  }
}

TEST_F(OptionHandlersTest, AbortIsCarriedOutThoughItIsRefused) {
  for (const uint32_t option : {nbdtest::kOptAbort, nbdtest::kOptList}) {
    const std::optional<Refusal> refusal =
        handlers_.WhyRefused({option, 0}, /*shutting_down=*/true);
    ASSERT_TRUE(refusal.has_value());
    OptionReplies replies(option);
    const OptionHandlers::Next next =
        handlers_.AnswerRefused(option, *refusal, replies);
    const bool abort = option == nbdtest::kOptAbort;
    EXPECT_EQ(std::holds_alternative<Ending>(next), abort);
    EXPECT_EQ(TypesOf(replies.bytes()),
              Types{abort ? nbdtest::kRepAck : nbdtest::kRepErrShutdown});
  }
}

// -- What follows

TEST_F(OptionHandlersTest, GoAndExportNameGiveWhatWasNegotiated) {
  Answer(nbdtest::kOptStructuredReply);
  Answer(nbdtest::kOptSetMetaContext,
         MetaContextPayload("disk", Queries{"base:allocation"}));
  const Answered go = Answer(nbdtest::kOptGo, InfoPayload("disk", Infos{}));
  EXPECT_EQ(TypesOf(go.sent), (Types{nbdtest::kRepInfo, nbdtest::kRepAck}));
  for (const auto& next :
       {go.next, Answer(nbdtest::kOptExportName, "disk").next}) {
    const auto* negotiated = std::get_if<Negotiated>(&next);
    ASSERT_NE(negotiated, nullptr);
    EXPECT_EQ(negotiated->export_name, "disk");
    EXPECT_EQ(negotiated->style, ReplyStyle::kStructured);
    EXPECT_EQ(negotiated->promises.headers, Headers::kCompact);
    EXPECT_EQ(
        negotiated->promises.transmission_flags & nbdtest::kBlockStatusPayload,
        0);
    EXPECT_TRUE(negotiated->promises.block_status);
    EXPECT_NE(negotiated->target, nullptr);
  }
}

// A rule may lock an export for one client that isn't locked for others, and
// the other way round.
TEST_F(OptionHandlersTest, SeveralConnectionsAreWelcomeToWhatIsNotLocked) {
  struct {
    std::optional<bool> wanted;
    Exclusive of_all;
    std::optional<Exclusive> of_rule;
    bool welcomes;
  } const kRows[] = {
      {std::nullopt, Exclusive::kOff, std::nullopt, true},
      {std::nullopt, Exclusive::kOff, Exclusive::kWait, false},
      {std::nullopt, Exclusive::kWait, std::nullopt, false},
      {std::nullopt, Exclusive::kWait, Exclusive::kOff, true},
      {false, Exclusive::kOff, Exclusive::kOff, false},
      {true, Exclusive::kWait, Exclusive::kWait, true},
  };
  for (const auto& row : kRows) {
    catalog_.exclusive = row.of_rule;
    OptionHandlers handlers(
        catalog_, {.multi_conn = row.wanted, .exclusive = row.of_all});
    const Answered go =
        Answer(handlers, nbdtest::kOptGo, InfoPayload("disk", Infos{}));
    const auto* negotiated = std::get_if<Negotiated>(&go.next);
    ASSERT_NE(negotiated, nullptr);
    EXPECT_EQ(
        (negotiated->promises.transmission_flags & nbdtest::kCanMultiConn) != 0,
        row.welcomes);
    EXPECT_EQ(negotiated->exclusive, row.of_rule);
    EXPECT_EQ(negotiated->rule, "rules:1");
  }
}

TEST_F(OptionHandlersTest, ExtendedHeadersComeWithTheExport) {
  Answer(nbdtest::kOptExtendedHeaders);
  for (const bool context : {false, true}) {
    if (context) {
      Answer(nbdtest::kOptSetMetaContext,
             MetaContextPayload("disk", Queries{"base:allocation"}));
    }
    const Answered go = Answer(nbdtest::kOptGo, InfoPayload("disk", Infos{}));
    const auto* negotiated = std::get_if<Negotiated>(&go.next);
    ASSERT_NE(negotiated, nullptr);
    EXPECT_EQ(negotiated->style, ReplyStyle::kExtended);
    EXPECT_EQ(negotiated->promises.headers, Headers::kExtended);
    const uint16_t flags = negotiated->promises.transmission_flags;
    EXPECT_NE(flags & nbdtest::kSendDf, 0);
    EXPECT_EQ((flags & nbdtest::kBlockStatusPayload) != 0, context);
  }
  const Answered export_name = Answer(nbdtest::kOptExportName, "disk");
  const auto* ending = std::get_if<Ending>(&export_name.next);
  ASSERT_NE(ending, nullptr);
  EXPECT_EQ(ending->status, ExitStatus::kProtocol);
  EXPECT_EQ(export_name.sent, "");
}

TEST_F(OptionHandlersTest, ASecondGoServesTheFileOfTheFirst) {
  const Bytes payload = InfoPayload("disk", Infos{});
  const Answered refused = Answer(nbdtest::kOptGo, payload);
  const Answered again = Answer(nbdtest::kOptGo, payload);
  EXPECT_EQ(std::get<Negotiated>(refused.next).target,
            std::get<Negotiated>(again.next).target);
}

TEST_F(OptionHandlersTest, StartTlsFollowsOnlyWithNothingBehindIt) {
  OptionHandlers offered(catalog_, {.tls = TlsMode::kOn});
  const Answered good = Answer(offered, nbdtest::kOptStartTls, "");
  EXPECT_TRUE(std::holds_alternative<OptionHandlers::StartTls>(good.next));
  EXPECT_EQ(TypesOf(good.sent), Types{nbdtest::kRepAck});
  const Answered injected =
      Answer(offered, nbdtest::kOptStartTls, "", /*input_follows=*/true);
  const auto* ending = std::get_if<Ending>(&injected.next);
  ASSERT_NE(ending, nullptr);
  EXPECT_EQ(ending->status, ExitStatus::kProtocol);
  EXPECT_EQ(injected.sent, "");
}

TEST_F(OptionHandlersTest, AnErrorOfTheCatalogIsTroubleForTheLog) {
  catalog_.status = absl::InternalError("failed to open it: broken");
  for (const uint32_t option : {nbdtest::kOptGo, nbdtest::kOptList}) {
    const Answered answered =
        Answer(option, option == nbdtest::kOptGo ? InfoPayload("disk", Infos{})
                                                 : Bytes());
    EXPECT_EQ(answered.trouble, catalog_.status);
    EXPECT_EQ(answered.sent.find("broken"), Bytes::npos);
    EXPECT_TRUE(
        std::holds_alternative<OptionHandlers::NextOption>(answered.next));
  }
  // That there is none is the client's, and that the server ends is no trouble.
  for (const absl::Status& status : {absl::NotFoundError("there is none"),
                                     absl::CancelledError("told to end")}) {
    catalog_.status = status;
    EXPECT_TRUE(
        Answer(nbdtest::kOptGo, InfoPayload("disk", Infos{})).trouble.ok());
  }
}

// -- Memory

TEST_F(OptionHandlersTest, ALongListIsSentInParts) {
  catalog_.exports = 100000;
  const Answered answered = Answer(nbdtest::kOptList);
  EXPECT_EQ(TypesOf(answered.sent).size(), catalog_.exports + 1);
  EXPECT_GE(answered.most_held, kOptionRepliesBytes);
  EXPECT_LT(answered.most_held, kOptionRepliesBytes + 8192);
}

TEST_F(OptionHandlersTest, AListEndsOnceAPartCannotBeSent) {
  catalog_.exports = 100000;
  const Answered answered = Answer(handlers_, nbdtest::kOptList, "",
                                   /*input_follows=*/false, /*parts=*/1);
  EXPECT_LT(catalog_.listed, catalog_.exports / 2);
  EXPECT_EQ(TypesOf(answered.sent).back(), nbdtest::kRepServer);
}

// The part that can't be sent is the end of the handshake.
TEST_F(OptionHandlersTest, AListWithoutTimeIsNoWholeList) {
  catalog_.exports = 3;
  catalog_.list_end = absl::CancelledError("no time");
  const Answered answered = Answer(handlers_, nbdtest::kOptList, "",
                                   /*input_follows=*/false, /*parts=*/0);
  EXPECT_EQ(TypesOf(answered.sent), Types(3, nbdtest::kRepServer));
  EXPECT_TRUE(answered.trouble.ok());
}

}  // namespace
}  // namespace nbdinetd
