// Option haggling over a stream in memory: what is answered to which option,
// and with what the handshake phase ends. How it looks in the real program is
// in handshake_test.cc.

#include "negotiation/negotiation.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/clock.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "support/fake_export.h"
#include "support/memory_stream.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Event;
using nbdtest::FakeExport;
using nbdtest::InfoPayload;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;
using nbdtest::MetaContextPayload;
using nbdtest::OptionMessage;
using nbdtest::OptionReplyName;
using nbdtest::Reader;
using nbdtest::Writer;

using Infos = std::vector<uint16_t>;
using Queries = std::vector<std::string>;

constexpr uint64_t kSize = 1 << 20;
constexpr size_t kGreeting = 18;

// What the server has: one export, perhaps under a name.
struct Served {
  std::optional<std::string> name = std::nullopt;
  std::string description = "";
  Export::Facts facts = {.size_bytes = kSize};
};

// One handshake phase. The client's bytes are all there from the beginning,
// which a client that pipelines may do; and behind them comes the end of the
// stream.
class Handshake {
 public:
  explicit Handshake(Served served = {}) {
    auto target = std::make_unique<FakeExport>(served.facts);
    target_ = target.get();
    catalog_ = Catalog::OfOne(std::move(target),
                              served.name.has_value()
                                  ? std::optional<std::string>(*served.name)
                                  : std::nullopt,
                              served.description);
  }

  Handshake& Flags(uint32_t flags = nbdtest::kClientFixedNewstyle |
                                    nbdtest::kClientNoZeroes) {
    return Raw(Writer().U32(flags).bytes());
  }
  Handshake& Option(uint32_t option, std::string_view payload = {}) {
    return Raw(OptionMessage(option, payload));
  }
  Handshake& Raw(std::string_view bytes) {
    peer_.Send(bytes);
    return *this;
  }

  Handshake& Run() {
    peer_.Close();
    return RunWithoutEnd();
  }
  // The client stays and says nothing more.
  Handshake& RunWithoutEnd() {
    outcome_ =
        Negotiation(channel_, *catalog_, log_, {.time_limit = time_limit_})
            .Run();
    received_ = peer_.Receive();
    return *this;
  }

  Handshake& Serve(std::unique_ptr<Catalog> catalog) {
    catalog_ = std::move(catalog);
    return *this;
  }
  Handshake& TimeLimit(absl::Duration limit) {
    time_limit_ = limit;
    return *this;
  }

  MemoryPeer& peer() { return peer_; }
  Event& shutdown() { return shutdown_; }
  Channel& channel() { return channel_; }
  const Export* target() const { return target_; }

  // What the client got behind the greeting.
  Bytes received() const {
    return received_.substr(std::min(kGreeting, received_.size()));
  }
  Bytes greeting() const { return received_.substr(0, kGreeting); }

  const Negotiated& negotiated() const {
    return std::get<Negotiated>(outcome_);
  }
  bool has_negotiated() const {
    return std::holds_alternative<Negotiated>(outcome_);
  }
  // How the connection ended, kOk being the answer for one that didn't, too.
  ExitStatus status() const {
    return has_negotiated() ? ExitStatus::kOk
                            : std::get<Ending>(outcome_).status;
  }
  std::string reason() const {
    return has_negotiated() ? "" : std::get<Ending>(outcome_).reason;
  }

 private:
  MemoryPeer peer_;
  Event shutdown_;
  Channel channel_{std::make_unique<MemoryStream>(peer_), shutdown_.fd()};
  Log log_{{LogDestination::kNull, /*verbose=*/false,
            /*standard_error_is_peer=*/true}};
  const Export* target_;
  absl::Duration time_limit_ = absl::InfiniteDuration();
  std::unique_ptr<Catalog> catalog_;
  std::variant<Negotiated, TlsUpgrade, Ending> outcome_;
  Bytes received_;
};

struct Reply {
  uint32_t option;
  uint32_t type;
  Bytes payload;
};

// Option replies, as they come. Everything has to be one.
std::vector<Reply> ParseReplies(const Bytes& bytes) {
  std::vector<Reply> replies;
  Reader reader(bytes);
  while (reader.left() > 0) {
    EXPECT_EQ(reader.U64(), nbdtest::kOptionReplyMagic);
    Reply reply;
    reply.option = reader.U32();
    reply.type = reader.U32();
    reply.payload = reader.Raw(reader.U32());
    replies.push_back(std::move(reply));
  }
  return replies;
}

// The replies in words: "8:NBD_REP_ACK 7:NBD_REP_INFO ...".
std::string Types(const Bytes& bytes) {
  std::string words;
  for (const Reply& reply : ParseReplies(bytes)) {
    if (!words.empty()) words += ' ';
    words += std::to_string(reply.option) + ":" + OptionReplyName(reply.type);
    // "All error replies MAY have some data set": ours have a sentence.
    if ((reply.type & nbdtest::kRepErrorBit) != 0) {
      EXPECT_TRUE(nbdtest::IsProtocolString(reply.payload));
      EXPECT_FALSE(reply.payload.empty()) << words;
    }
  }
  return words;
}

// -- Greeting and client flags

TEST(Greeting, ComesBeforeTheClientHasSaidAnything) {
  Handshake handshake;
  handshake.Run();
  EXPECT_EQ(handshake.greeting(), Bytes("NBDMAGICIHAVEOPT\0\3", 18));
  EXPECT_EQ(handshake.received(), "");
}

TEST(Greeting, AClientThatOnlyConnectsHasDoneNothingWrong) {
  EXPECT_EQ(Handshake().Run().status(), ExitStatus::kOk);
  Handshake gone;
  gone.peer().BreakAfter(5, -EPIPE);
  EXPECT_EQ(gone.Run().status(), ExitStatus::kOk);
  EXPECT_FALSE(gone.reason().empty());
}

TEST(ClientFlags, AreTwoAndAnyOtherEndsTheConnection) {
  for (uint32_t flags = 0; flags < 4; ++flags) {
    Handshake handshake;
    handshake.Flags(flags).Option(nbdtest::kOptAbort).Run();
    EXPECT_EQ(Types(handshake.received()), "2:NBD_REP_ACK") << flags;
  }
  for (int bit = 2; bit < 32; ++bit) {
    Handshake handshake;
    handshake.Flags(3 | 1u << bit).Option(nbdtest::kOptAbort).Run();
    EXPECT_EQ(handshake.status(), ExitStatus::kProtocol) << bit;
    EXPECT_EQ(handshake.received(), "") << bit;
    EXPECT_NE(handshake.reason().find("flags"), std::string::npos)
        << handshake.reason();
  }
}

// -- The table of options

struct OptionRow {
  const char* what;
  uint32_t option;
  Bytes payload;
  const char* types;  // of the replies
};

void ExpectReplies(const Served& served, const std::vector<OptionRow>& rows,
                   bool structured = false) {
  for (const OptionRow& row : rows) {
    Handshake handshake(served);
    handshake.Flags();
    if (structured) handshake.Option(nbdtest::kOptStructuredReply);
    handshake.Option(row.option, row.payload);
    // Whatever the answer, haggling goes on.
    handshake.Option(nbdtest::kOptList).Run();
    const Bytes bytes = handshake.received();
    const std::string wanted = std::string(structured ? "8:NBD_REP_ACK " : "") +
                               row.types + " 3:NBD_REP_SERVER 3:NBD_REP_ACK";
    EXPECT_EQ(Types(bytes), wanted) << row.what;
    EXPECT_EQ(handshake.status(), ExitStatus::kOk)
        << row.what << ": " << handshake.reason();
  }
}

TEST(Options, HaveTheRepliesOfTheSpecification) {
  using nbdtest::kOptInfo;
  ExpectReplies(
      {.name = "disk", .description = "a disk"},
      {
          {"list", nbdtest::kOptList, "", "3:NBD_REP_SERVER 3:NBD_REP_ACK"},
          {"list with data", nbdtest::kOptList, "x", "3:NBD_REP_ERR_INVALID"},
          {"start TLS", nbdtest::kOptStartTls, "", "5:NBD_REP_ERR_UNSUP"},
          {"start TLS with data", nbdtest::kOptStartTls, "x",
           "5:NBD_REP_ERR_UNSUP"},
          {"structured replies", nbdtest::kOptStructuredReply, "",
           "8:NBD_REP_ACK"},
          {"structured replies with data", nbdtest::kOptStructuredReply, "x",
           "8:NBD_REP_ERR_INVALID"},
          {"info", kOptInfo, InfoPayload("disk", Infos{}),
           "6:NBD_REP_INFO 6:NBD_REP_ACK"},
          {"info of the default", kOptInfo, InfoPayload("", Infos{}),
           "6:NBD_REP_INFO 6:NBD_REP_ACK"},
          {"info with requests", kOptInfo, InfoPayload("disk", Infos{1, 2, 3}),
           "6:NBD_REP_INFO 6:NBD_REP_INFO 6:NBD_REP_INFO 6:NBD_REP_INFO "
           "6:NBD_REP_ACK"},
          // "The server MUST ignore any information requests it does not
          // understand."
          {"info with unknown requests", kOptInfo,
           InfoPayload("disk", Infos{4, 99, 65535}),
           "6:NBD_REP_INFO 6:NBD_REP_ACK"},
          // "A particular information type SHOULD only appear once".
          {"info with a request twice", kOptInfo,
           InfoPayload("disk", Infos{0, 1, 1, 0}),
           "6:NBD_REP_INFO 6:NBD_REP_INFO 6:NBD_REP_ACK"},
          {"info of an unknown export", kOptInfo,
           InfoPayload("other", Infos{1}), "6:NBD_REP_ERR_UNKNOWN"},
          {"info without data", kOptInfo, "", "6:NBD_REP_ERR_INVALID"},
          {"info cut short", kOptInfo,
           InfoPayload("disk", Infos{1}).substr(0, 9), "6:NBD_REP_ERR_INVALID"},
          {"info with a byte too many", kOptInfo,
           InfoPayload("disk", Infos{1}) + "x", "6:NBD_REP_ERR_INVALID"},
          {"info of no UTF-8", kOptInfo, InfoPayload("\xff", Infos{}),
           "6:NBD_REP_ERR_INVALID"},
          {"go to an unknown export", nbdtest::kOptGo,
           InfoPayload("other", Infos{}), "7:NBD_REP_ERR_UNKNOWN"},
          {"go without data", nbdtest::kOptGo, "", "7:NBD_REP_ERR_INVALID"},
          {"go with a NUL", nbdtest::kOptGo,
           InfoPayload(std::string("a\0b", 3), Infos{}),
           "7:NBD_REP_ERR_INVALID"},
          {"contexts without structured replies", nbdtest::kOptListMetaContext,
           MetaContextPayload("disk", Queries{}), "9:NBD_REP_ERR_INVALID"},
          {"selecting without structured replies", nbdtest::kOptSetMetaContext,
           MetaContextPayload("disk", Queries{"base:allocation"}),
           "10:NBD_REP_ERR_INVALID"},
          {"option 0", 0, "", "0:NBD_REP_ERR_UNSUP"},
          {"peek export, withdrawn", nbdtest::kOptPeekExport, "disk",
           "4:NBD_REP_ERR_UNSUP"},
          {"extended headers with data", nbdtest::kOptExtendedHeaders, "x",
           "11:NBD_REP_ERR_INVALID"},
          {"an unknown option with data", 12345, Bytes(1000, 'x'),
           "12345:NBD_REP_ERR_UNSUP"},
          {"the greatest option", UINT32_MAX, "x",
           "4294967295:NBD_REP_ERR_UNSUP"},
      });
}

TEST(Options, AboutContextsHaveTheRepliesOfTheSpecification) {
  const auto payload = [](std::string_view name, const Queries& queries) {
    return MetaContextPayload(name, queries);
  };
  constexpr uint32_t kList = nbdtest::kOptListMetaContext;
  constexpr uint32_t kSet = nbdtest::kOptSetMetaContext;
  ExpectReplies(
      {.name = "disk"},
      {
          {"list all", kList, payload("disk", {}),
           "9:NBD_REP_META_CONTEXT 9:NBD_REP_ACK"},
          {"list all of the default", kList, payload("", {}),
           "9:NBD_REP_META_CONTEXT 9:NBD_REP_ACK"},
          {"list one", kList, payload("disk", {"base:allocation"}),
           "9:NBD_REP_META_CONTEXT 9:NBD_REP_ACK"},
          {"list a namespace", kList, payload("disk", {"base:"}),
           "9:NBD_REP_META_CONTEXT 9:NBD_REP_ACK"},
          {"list both ways", kList,
           payload("disk", {"base:", "base:allocation", "base:"}),
           "9:NBD_REP_META_CONTEXT 9:NBD_REP_ACK"},
          // "the server MUST ignore query strings belonging to an unknown
          // namespace".
          {"list of another namespace", kList,
           payload("disk", {"x-qemu:", "nbd-server:x"}), "9:NBD_REP_ACK"},
          {"list of another namespace and ours", kList,
           payload("disk", {"x-a:b", "base:"}),
           "9:NBD_REP_META_CONTEXT 9:NBD_REP_ACK"},
          {"list of another leaf", kList, payload("disk", {"base:other"}),
           "9:NBD_REP_ACK"},
          {"list without colon", kList, payload("disk", {"base"}),
           "9:NBD_REP_ERR_INVALID"},
          {"list of nothing", kList, payload("disk", {""}),
           "9:NBD_REP_ERR_INVALID"},
          {"list of an unknown export", kList, payload("other", {}),
           "9:NBD_REP_ERR_UNKNOWN"},
          {"list without data", kList, "", "9:NBD_REP_ERR_INVALID"},
          {"select", kSet, payload("disk", {"base:allocation"}),
           "10:NBD_REP_META_CONTEXT 10:NBD_REP_ACK"},
          {"select among others", kSet,
           payload("disk", {"x-a:b", "base:allocation", "x-c:"}),
           "10:NBD_REP_META_CONTEXT 10:NBD_REP_ACK"},
          {"select twice", kSet,
           payload("disk", {"base:allocation", "base:allocation"}),
           "10:NBD_REP_META_CONTEXT 10:NBD_REP_ACK"},
          // "If zero queries are sent, the server MUST select no metadata
          // contexts."
          {"select nothing", kSet, payload("disk", {}), "10:NBD_REP_ACK"},
          {"select by wildcard", kSet, payload("disk", {"base:"}),
           "10:NBD_REP_ACK"},
          {"select another", kSet, payload("disk", {"x-a:b"}),
           "10:NBD_REP_ACK"},
          {"select without colon", kSet, payload("disk", {"base"}),
           "10:NBD_REP_ERR_INVALID"},
          {"select of an unknown export", kSet,
           payload("other", {"base:allocation"}), "10:NBD_REP_ERR_UNKNOWN"},
          {"select with a length that lies", kSet,
           Writer().String32("disk").U32(1).U32(100).Raw("base:").bytes(),
           "10:NBD_REP_ERR_INVALID"},
          {"structured replies again", nbdtest::kOptStructuredReply, "",
           "8:NBD_REP_ERR_INVALID"},
      },
      /*structured=*/true);
}

TEST(Options, ListNamesTheExport) {
  struct Row {
    Served served;
    Bytes payload;
  };
  const Row rows[] = {
      {{}, Writer().U32(0).bytes()},
      {{.name = "disk"}, Writer().String32("disk").bytes()},
      {{.name = "disk", .description = "a disk"},
       Writer().String32("disk").Raw("a disk").bytes()},
      {{.name = "\xc3\xa4", .description = "\xe2\x82\xac"},
       Writer().String32("\xc3\xa4").Raw("\xe2\x82\xac").bytes()},
  };
  for (const Row& row : rows) {
    Handshake handshake(row.served);
    handshake.Flags().Option(nbdtest::kOptList).Run();
    const std::vector<Reply> replies = ParseReplies(handshake.received());
    ASSERT_EQ(replies.size(), 2u);
    EXPECT_EQ(replies[0].payload, row.payload);
    EXPECT_EQ(replies[1].payload, "");
  }
}

// -- Information

// The payloads of NBD_REP_INFO, without their type, in the order of the types
// asked for; nothing where one is missing.
std::vector<std::optional<Bytes>> InfosOf(const Bytes& bytes,
                                          const Infos& types) {
  std::vector<std::optional<Bytes>> found(types.size());
  for (const Reply& reply : ParseReplies(bytes)) {
    if (reply.type != nbdtest::kRepInfo) continue;
    Reader reader(reply.payload);
    const uint16_t type = reader.U16();
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] == type) found[i] = reader.Rest();
    }
  }
  return found;
}

TEST(Information, IsWhatWasAskedForAndTheExportAlways) {
  for (const uint32_t option : {nbdtest::kOptInfo, nbdtest::kOptGo}) {
    Handshake handshake({.name = "disk",
                         .description = "a disk",
                         .facts = {.size_bytes = (uint64_t{5} << 40) + 1,
                                   .block_sizes = {.preferred = 65536}}});
    handshake.Flags().Option(option, InfoPayload("", Infos{3, 2, 1})).Run();
    const auto infos = InfosOf(handshake.received(), {0, 1, 2, 3});
    ASSERT_TRUE(infos[0] && infos[1] && infos[2] && infos[3]);
    EXPECT_EQ(Reader(*infos[0]).U64(), (uint64_t{5} << 40) + 1);
    // The canonical name, although the client asked for the default export.
    EXPECT_EQ(*infos[1], "disk");
    EXPECT_EQ(*infos[2], "a disk");
    EXPECT_EQ(*infos[3],
              Writer().U32(1).U32(65536).U32(nbdtest::kMaxPayload).bytes());
  }
}

TEST(Information, LeavesOutWhatWasNotAskedFor) {
  Handshake handshake({.name = "disk", .description = "a disk"});
  handshake.Flags()
      .Option(nbdtest::kOptInfo, InfoPayload("disk", Infos{}))
      .Run();
  const auto infos = InfosOf(handshake.received(), {0, 1, 2, 3});
  EXPECT_TRUE(infos[0] && !infos[1] && !infos[2] && !infos[3]);
}

TEST(Information, LeavesOutADescriptionThatThereIsNot) {
  Handshake handshake;
  handshake.Flags()
      .Option(nbdtest::kOptInfo, InfoPayload("disk", Infos{1, 2}))
      .Run();
  const auto infos = InfosOf(handshake.received(), {1, 2});
  EXPECT_TRUE(infos[0].has_value());
  EXPECT_FALSE(infos[1].has_value());
}

// -- Transmission flags

TEST(TransmissionFlags, FollowFromTheExportAndFromStructuredReplies) {
  constexpr uint16_t kAlways = nbdtest::kHasFlags | nbdtest::kSendFlush |
                               nbdtest::kSendFua | nbdtest::kCanMultiConn |
                               nbdtest::kSendCache;
  constexpr uint16_t kWriting =
      nbdtest::kSendTrim | nbdtest::kSendWriteZeroes | nbdtest::kSendFastZero;
  for (const bool read_only : {false, true}) {
    for (const bool rotational : {false, true}) {
      for (const bool structured : {false, true}) {
        Handshake handshake({.facts = {.size_bytes = kSize,
                                       .read_only = read_only,
                                       .rotational = rotational}});
        handshake.Flags();
        if (structured) handshake.Option(nbdtest::kOptStructuredReply);
        handshake.Option(nbdtest::kOptGo, InfoPayload("", Infos{})).Run();
        const auto infos = InfosOf(handshake.received(), {0});
        ASSERT_TRUE(infos[0].has_value());
        const unsigned wanted = kAlways |
                                (read_only ? nbdtest::kReadOnly : kWriting) |
                                (rotational ? nbdtest::kRotational : 0u) |
                                (structured ? nbdtest::kSendDf : 0u);
        EXPECT_EQ(
            *infos[0],
            Writer().U64(kSize).U16(static_cast<uint16_t>(wanted)).bytes());
        // What is accepted is what was advertised.
        ASSERT_TRUE(handshake.has_negotiated());
        EXPECT_EQ(handshake.negotiated().promises.transmission_flags, wanted);
        EXPECT_EQ(handshake.negotiated().promises.size_bytes, kSize);
      }
    }
  }
}

// -- What has been negotiated

TEST(Go, EntersTransmissionWithWhatWasAgreedOn) {
  Handshake simple;
  simple.Flags()
      .Option(nbdtest::kOptGo, InfoPayload("any name", Infos{}))
      .Run();
  ASSERT_TRUE(simple.has_negotiated()) << simple.reason();
  EXPECT_EQ(simple.negotiated().target.get(), simple.target());
  EXPECT_EQ(simple.negotiated().export_name, "any name");
  EXPECT_EQ(simple.negotiated().style, ReplyStyle::kSimple);
  EXPECT_FALSE(simple.negotiated().promises.block_status);

  Handshake structured;
  structured.Flags()
      .Option(nbdtest::kOptStructuredReply)
      .Option(nbdtest::kOptGo, InfoPayload("", Infos{}))
      .Run();
  ASSERT_TRUE(structured.has_negotiated()) << structured.reason();
  EXPECT_EQ(structured.negotiated().style, ReplyStyle::kStructured);
}

TEST(Go, LeavesTheFirstRequestsToTheTransmission) {
  Handshake handshake;
  const Bytes request = nbdtest::RequestMessage({.type = nbdtest::kCmdFlush});
  handshake.Flags()
      .Option(nbdtest::kOptGo, InfoPayload("", Infos{}))
      .Raw(request)
      .Run();
  ASSERT_TRUE(handshake.has_negotiated());
  Bytes rest(handshake.channel().input());
  while (handshake.channel().Receive() == Channel::Receipt::kData) {
    rest = Bytes(handshake.channel().input());
  }
  EXPECT_EQ(rest, request);
}

TEST(Go, IsNotTheEndWhenItFails) {
  Handshake handshake({.name = "disk"});
  handshake.Flags()
      .Option(nbdtest::kOptGo, InfoPayload("other", Infos{}))
      .Option(nbdtest::kOptGo, InfoPayload("disk", Infos{}))
      .Run();
  EXPECT_EQ(Types(handshake.received()),
            "7:NBD_REP_ERR_UNKNOWN 7:NBD_REP_INFO 7:NBD_REP_ACK");
  ASSERT_TRUE(handshake.has_negotiated());
  EXPECT_EQ(handshake.negotiated().export_name, "disk");
}

TEST(ExportName, TellsSizeAndFlagsAndZeroesUnlessTheyAreNotWanted) {
  for (const uint32_t flags :
       {0u, nbdtest::kClientFixedNewstyle, nbdtest::kClientNoZeroes,
        nbdtest::kClientFixedNewstyle | nbdtest::kClientNoZeroes}) {
    Handshake handshake;
    handshake.Flags(flags).Option(nbdtest::kOptExportName, "disk").Run();
    ASSERT_TRUE(handshake.has_negotiated()) << handshake.reason();
    const bool zeroes = (flags & nbdtest::kClientNoZeroes) == 0;
    EXPECT_EQ(handshake.received(),
              Writer()
                  .U64(kSize)
                  .U16(handshake.negotiated().promises.transmission_flags)
                  .Raw(Bytes(zeroes ? 124 : 0, '\0'))
                  .bytes());
    EXPECT_EQ(handshake.negotiated().export_name, "disk");
  }
}

TEST(ExportName, KeepsWhatWasNegotiatedBefore) {
  Handshake handshake;
  handshake.Flags()
      .Option(nbdtest::kOptStructuredReply)
      .Option(nbdtest::kOptSetMetaContext,
              MetaContextPayload("disk", Queries{"base:allocation"}))
      .Option(nbdtest::kOptExportName, "disk")
      .Run();
  ASSERT_TRUE(handshake.has_negotiated());
  EXPECT_EQ(handshake.negotiated().style, ReplyStyle::kStructured);
  EXPECT_TRUE(handshake.negotiated().promises.block_status);
}

// There is no error reply to this option, so the connection ends without
// another byte.
TEST(ExportName, EndsTheConnectionWhenItCannotBeHad) {
  struct Row {
    Bytes name;
    ExitStatus status;
  };
  const Row rows[] = {
      {"other", ExitStatus::kOk},
      {Bytes(4096, 'n'), ExitStatus::kOk},
      {Bytes(4097, 'n'), ExitStatus::kProtocol},
      {Bytes(100000, 'n'), ExitStatus::kProtocol},
      {Bytes("a\0b", 3), ExitStatus::kProtocol},
      {"\xff", ExitStatus::kProtocol},
  };
  for (const Row& row : rows) {
    Handshake handshake({.name = "disk"});
    handshake.Flags().Option(nbdtest::kOptExportName, row.name).Run();
    EXPECT_FALSE(handshake.has_negotiated()) << row.name.size();
    EXPECT_EQ(handshake.status(), row.status) << row.name.size();
    EXPECT_EQ(handshake.received(), "") << row.name.size();
  }
}

TEST(ExportName, OfAClientCannotForgeALogLine) {
  Handshake handshake({.name = "disk"});
  handshake.Flags().Option(nbdtest::kOptExportName, "a\nnbdinetd: b").Run();
  EXPECT_EQ(handshake.reason().find('\n'), std::string::npos)
      << handshake.reason();
}

TEST(Abort, IsAcknowledgedAndEndsTheConnectionInPeace) {
  for (const size_t data :
       {size_t{0}, size_t{1}, size_t{65536}, size_t{65537}, size_t{1} << 20}) {
    Handshake handshake;
    handshake.Flags()
        .Option(nbdtest::kOptAbort, Bytes(data, 'x'))
        .Option(nbdtest::kOptList)
        .Run();
    EXPECT_EQ(Types(handshake.received()), "2:NBD_REP_ACK") << data;
    EXPECT_FALSE(handshake.has_negotiated());
    EXPECT_EQ(handshake.status(), ExitStatus::kOk) << data;
  }
}

// "the server SHOULD gracefully handle the client sending an NBD_OPT_ABORT and
// closing the connection without waiting for a reply".
TEST(Abort, OfAClientThatDoesNotWaitForTheReplyIsInPeaceToo) {
  Handshake handshake;
  handshake.peer().BreakAfter(kGreeting, -EPIPE);
  handshake.Flags().Option(nbdtest::kOptAbort).Run();
  EXPECT_EQ(handshake.status(), ExitStatus::kOk);
}

// -- Metadata contexts

TEST(MetaContexts, HaveAnIdWhenSelectedAndNoneWhenListed) {
  Handshake handshake;
  handshake.Flags()
      .Option(nbdtest::kOptStructuredReply)
      .Option(nbdtest::kOptListMetaContext, MetaContextPayload("", Queries{}))
      .Option(nbdtest::kOptSetMetaContext,
              MetaContextPayload("", Queries{"base:allocation"}))
      .Run();
  const std::vector<Reply> replies = ParseReplies(handshake.received());
  ASSERT_EQ(replies.size(), 5u);
  EXPECT_EQ(replies[1].payload, Writer().U32(0).Raw("base:allocation").bytes());
  EXPECT_EQ(replies[3].payload,
            Writer().U32(kBaseAllocationId).Raw("base:allocation").bytes());
}

struct Selection {
  const char* what;
  std::vector<std::pair<Bytes, Queries>>
      options;  // NBD_OPT_SET_META_CONTEXT, in this order
  const char* go;
  bool selected;
};

TEST(MetaContexts,
     HoldForTheExportTheyWereSelectedForAndUntilTheNextSelection) {
  const Queries yes = {"base:allocation"};
  const Queries no = {};
  const Queries malformed = {"base"};
  const Selection rows[] = {
      {"never", {}, "a", false},
      {"the same name", {{"a", yes}}, "a", true},
      {"another name of the same export", {{"a", yes}}, "b", false},
      {"the empty name", {{"", yes}}, "", true},
      {"the empty name and another", {{"", yes}}, "a", false},
      {"replaced by nothing", {{"a", yes}, {"a", no}}, "a", false},
      {"replaced by the same", {{"a", no}, {"a", yes}}, "a", true},
      {"replaced for another name", {{"a", yes}, {"b", yes}}, "a", false},
      {"replaced for another name, which is chosen",
       {{"a", yes}, {"b", yes}},
       "b",
       true},
      // "replaces all previously-set metadata contexts (including when this
      // command fails)".
      {"replaced by a failure", {{"a", yes}, {"a", malformed}}, "a", false},
      {"replaced by what cannot be read",
       {{"a", yes}, {"a", {Bytes(4097, 'q')}}},
       "a",
       false},
  };
  for (const Selection& row : rows) {
    Handshake handshake;
    handshake.Flags().Option(nbdtest::kOptStructuredReply);
    for (const auto& [name, queries] : row.options) {
      handshake.Option(nbdtest::kOptSetMetaContext,
                       MetaContextPayload(name, queries));
    }
    handshake.Option(nbdtest::kOptGo, InfoPayload(row.go, Infos{})).Run();
    ASSERT_TRUE(handshake.has_negotiated()) << row.what;
    EXPECT_EQ(handshake.negotiated().promises.block_status, row.selected)
        << row.what;
  }
}

TEST(MetaContexts, AreNotSelectedByListing) {
  Handshake handshake;
  handshake.Flags()
      .Option(nbdtest::kOptStructuredReply)
      .Option(nbdtest::kOptListMetaContext,
              MetaContextPayload("", Queries{"base:allocation"}))
      .Option(nbdtest::kOptGo, InfoPayload("", Infos{}))
      .Run();
  ASSERT_TRUE(handshake.has_negotiated());
  EXPECT_FALSE(handshake.negotiated().promises.block_status);
}

// A selection that is too big to be looked at has failed, and so replaced the
// one before.
TEST(MetaContexts, AreLostByASelectionThatIsTooBig) {
  Handshake handshake;
  handshake.Flags()
      .Option(nbdtest::kOptStructuredReply)
      .Option(nbdtest::kOptSetMetaContext,
              MetaContextPayload("", Queries{"base:allocation"}))
      .Option(nbdtest::kOptSetMetaContext,
              Bytes(nbdtest::kMaxOptionPayload + 1, 'x'))
      .Option(nbdtest::kOptGo, InfoPayload("", Infos{}))
      .Run();
  ASSERT_TRUE(handshake.has_negotiated());
  EXPECT_FALSE(handshake.negotiated().promises.block_status);
}

// -- Catalogs that open exports as clients ask for them

// Has one export, under any name; it says what the test wants it to say.
class LazyCatalog : public Catalog {
 public:
  absl::Status Find(absl::string_view) override { return status; }
  absl::StatusOr<Opened> Open(absl::string_view name) override {
    if (!status.ok()) return status;
    opened_names.emplace_back(name);
    // A client may ask for thousands.
    EXPECT_TRUE(target.expired()) << "two are open at a time";
    const auto opened = std::make_shared<FakeExport>(
        Export::Facts{.size_bytes = opened_names.size(), .read_only = true});
    target = opened;
    return Opened{opened, "canonical", "described", "the reason"};
  }
  absl::Status List(Visitor visit) override {
    if (!status.ok()) return status;
    for (listed = 0; listed < exports; ++listed) {
      if (pause > absl::ZeroDuration()) absl::SleepFor(pause);
      if (!visit("export " + std::to_string(listed), "described")) break;
    }
    return absl::OkStatus();
  }
  std::string InWords() override { return ""; }

  absl::Status status;
  size_t exports = 0;
  absl::Duration pause;  // before each that is listed
  size_t listed = 0;
  std::vector<std::string> opened_names;
  std::weak_ptr<Export> target;  // the last one that was opened
};

struct Lazily {
  Lazily() {
    auto owned = std::make_unique<LazyCatalog>();
    catalog = owned.get();
    handshake.Serve(std::move(owned)).Flags();
  }
  Handshake handshake;
  LazyCatalog* catalog;
};

TEST(LazyExport, IsOpenedAnewForEachOption) {
  Lazily lazily;
  lazily.handshake.Option(nbdtest::kOptInfo, InfoPayload("a", Infos{}))
      .Option(nbdtest::kOptInfo, InfoPayload("a", Infos{}))
      .Option(nbdtest::kOptStructuredReply)
      .Option(nbdtest::kOptGo, InfoPayload("a", Infos{1, 2}))
      .Run();
  EXPECT_EQ(lazily.catalog->opened_names, (Queries{"a", "a", "a"}));
  ASSERT_TRUE(lazily.handshake.has_negotiated());
  const Negotiated& negotiated = lazily.handshake.negotiated();
  EXPECT_EQ(negotiated.target, lazily.catalog->target.lock());
  EXPECT_EQ(negotiated.promises.size_bytes, 3u);
  EXPECT_EQ(negotiated.read_only_reason, "the reason");
  const std::vector<Reply> replies = ParseReplies(lazily.handshake.received());
  ASSERT_EQ(replies.size(), 9u);
  EXPECT_EQ(replies[6].payload, Writer().U16(1).Raw("canonical").bytes());
  EXPECT_EQ(replies[7].payload, Writer().U16(2).Raw("described").bytes());
}

// "If there are no intervening option requests between a successful
// NBD_OPT_INFO ... and an NBD_OPT_GO with the same parameters ... then the
// server MUST reply with the same set of information".
TEST(LazyExport, IsTheSameInAGoRightAfterAnInfo) {
  struct Row {
    const char* info;
    const char* go;
    std::vector<uint32_t> between;
    Queries opened;
  };
  const Row rows[] = {
      {"a", "a", {}, {"a"}},
      {"a", "b", {}, {"a", "b"}},
      {"a", "a", {nbdtest::kOptList}, {"a", "a"}},
      {"a", "a", {99}, {"a", "a"}},
  };
  for (const Row& row : rows) {
    Lazily lazily;
    lazily.handshake.Option(nbdtest::kOptInfo, InfoPayload(row.info, Infos{}));
    for (const uint32_t option : row.between) lazily.handshake.Option(option);
    lazily.handshake.Option(nbdtest::kOptGo, InfoPayload(row.go, Infos{}))
        .Run();
    EXPECT_EQ(lazily.catalog->opened_names, row.opened);
    ASSERT_TRUE(lazily.handshake.has_negotiated());
    EXPECT_EQ(lazily.handshake.negotiated().promises.size_bytes,
              row.opened.size());
    EXPECT_EQ(lazily.handshake.negotiated().export_name, row.go);
  }
}

TEST(LazyExport, ThatCannotBeHadIsRefusedAndHagglingGoesOn) {
  struct Row {
    absl::Status status;
    const char* reply;
    const char* list_reply;
  };
  const Row rows[] = {
      {absl::NotFoundError("x"), "NBD_REP_ERR_UNKNOWN", "NBD_REP_ERR_PLATFORM"},
      {absl::InvalidArgumentError("x"), "NBD_REP_ERR_INVALID",
       "NBD_REP_ERR_PLATFORM"},
      {absl::PermissionDeniedError("x"), "NBD_REP_ERR_POLICY",
       "NBD_REP_ERR_POLICY"},
      {absl::ResourceExhaustedError("x"), "NBD_REP_ERR_UNKNOWN",
       "NBD_REP_ERR_TOO_BIG"},
      {absl::UnavailableError("x"), "NBD_REP_ERR_UNKNOWN",
       "NBD_REP_ERR_PLATFORM"},
      {absl::InternalError("x"), "NBD_REP_ERR_UNKNOWN", "NBD_REP_ERR_PLATFORM"},
      {absl::CancelledError("x"), "NBD_REP_ERR_SHUTDOWN",
       "NBD_REP_ERR_PLATFORM"},
  };
  for (const Row& row : rows) {
    Lazily lazily;
    lazily.catalog->status = row.status;
    lazily.handshake.Option(nbdtest::kOptStructuredReply)
        .Option(nbdtest::kOptInfo, InfoPayload("a", Infos{}))
        .Option(nbdtest::kOptGo, InfoPayload("a", Infos{}))
        .Option(nbdtest::kOptSetMetaContext,
                MetaContextPayload("a", Queries{"base:allocation"}))
        .Option(nbdtest::kOptList)
        .Option(nbdtest::kOptAbort)
        .Run();
    EXPECT_EQ(Types(lazily.handshake.received()),
              std::string("8:NBD_REP_ACK 6:") + row.reply + " 7:" + row.reply +
                  " 10:" + row.reply + " 3:" + row.list_reply +
                  " 2:NBD_REP_ACK");
  }
}

TEST(LazyExport, ThatCannotBeHadEndsTheConnectionWhereThereIsNoErrorReply) {
  const std::pair<absl::Status, ExitStatus> rows[] = {
      {absl::NotFoundError("x"), ExitStatus::kOk},
      {absl::InvalidArgumentError("x"), ExitStatus::kProtocol},
      {absl::PermissionDeniedError("why"), ExitStatus::kNoInput},
      {absl::InternalError("why"), ExitStatus::kNoInput},
      {absl::CancelledError("why"), ExitStatus::kOk},
  };
  for (const auto& [status, exit_status] : rows) {
    Lazily lazily;
    lazily.catalog->status = status;
    lazily.handshake.Option(nbdtest::kOptExportName, "a").Run();
    EXPECT_EQ(lazily.handshake.status(), exit_status) << status;
    EXPECT_EQ(lazily.handshake.received(), "");
    if (exit_status == ExitStatus::kNoInput) {
      EXPECT_EQ(lazily.handshake.reason(), "why");
    }
  }
}

TEST(LongList, IsSentInParts) {
  Lazily lazily;
  lazily.catalog->exports = 100000;
  lazily.handshake.Option(nbdtest::kOptList).Option(nbdtest::kOptAbort).Run();
  const Bytes& received = lazily.handshake.received();
  const std::vector<Reply> replies = ParseReplies(received);
  ASSERT_EQ(replies.size(), 100002u);
  EXPECT_EQ(replies[99999].payload,
            Writer().String32("export 99999").Raw("described").bytes());
  EXPECT_EQ(replies[100000].type, nbdtest::kRepAck);
  // None of them longer than the bound and a reply.
  EXPECT_GE(lazily.handshake.peer().writes(),
            received.size() / (kOptionRepliesBytes + 100));
}

TEST(LongList, EndsWithTheClient) {
  Lazily lazily;
  lazily.catalog->exports = 100000;
  lazily.handshake.peer().BreakAfter(kGreeting + 100000, -EPIPE);
  lazily.handshake.Option(nbdtest::kOptList).Run();
  EXPECT_EQ(lazily.handshake.status(), ExitStatus::kProtocol);
  EXPECT_LT(lazily.catalog->listed, 10000u);
}

TEST(LongList, EndsWithTheTimeForTheHandshake) {
  Lazily lazily;
  // A file system that is far away; the list has an end, so that a server that
  // doesn't look at the time comes to it.
  lazily.catalog->exports = 5000;
  lazily.catalog->pause = absl::Milliseconds(1);
  lazily.handshake.TimeLimit(absl::Milliseconds(50))
      .Option(nbdtest::kOptList)
      .Run();
  EXPECT_EQ(lazily.handshake.status(), ExitStatus::kTimedOut);
  EXPECT_LT(lazily.catalog->listed, lazily.catalog->exports);
}

// -- The time for it

TEST(TimeLimit, EndsWithTheHandshake) {
  // As short a time as this machine is quick enough for.
  for (absl::Duration limit = absl::Milliseconds(100);; limit *= 10) {
    Handshake handshake;
    handshake.TimeLimit(limit)
        .Flags()
        .Option(nbdtest::kOptGo, InfoPayload("", Infos{}))
        .RunWithoutEnd();
    if (!handshake.has_negotiated()) {
      ASSERT_LT(limit, absl::Minutes(1)) << handshake.reason();
      continue;
    }
    absl::SleepFor(limit);
    handshake.peer().Send("a request");
    EXPECT_TRUE(handshake.channel().Wait({}).input);
    return;
  }
}

TEST(TimeLimit, OfTheHandshakeOverTlsBeganBeforeIt) {
  MemoryPeer peer;
  peer.Send(OptionMessage(nbdtest::kOptList, ""));
  Event shutdown;
  Channel channel(std::make_unique<MemoryStream>(peer), shutdown.fd());
  const auto catalog = Catalog::OfOne(
      std::make_unique<FakeExport>(Export::Facts{}), std::nullopt, "");
  const Log log({LogDestination::kNull, /*verbose=*/false,
                 /*standard_error_is_peer=*/true});
  TlsUpgrade upgrade;
  upgrade.deadline = SteadyNow() - absl::Milliseconds(1);
  auto outcome = Negotiation(channel, *catalog, log,
                             {.time_limit = absl::Seconds(30)}, upgrade)
                     .Run();
  ASSERT_TRUE(std::holds_alternative<Ending>(outcome));
  EXPECT_EQ(std::get<Ending>(outcome).status, ExitStatus::kTimedOut);
  EXPECT_EQ(peer.Receive(), "");
}

// -- Limits

TEST(TooBig, IsAnOptionOfMoreThan64KiBAndHagglingGoesOn) {
  for (const uint32_t option :
       {nbdtest::kOptList, nbdtest::kOptStartTls, nbdtest::kOptInfo,
        nbdtest::kOptGo, nbdtest::kOptStructuredReply,
        nbdtest::kOptListMetaContext, nbdtest::kOptSetMetaContext}) {
    for (const size_t size : {size_t{65536}, size_t{65537}, size_t{1000000}}) {
      Handshake handshake;
      handshake.Flags()
          .Option(option, Bytes(size, 'x'))
          .Option(nbdtest::kOptAbort)
          .Run();
      const std::vector<Reply> replies = ParseReplies(handshake.received());
      ASSERT_EQ(replies.size(), 2u) << option << ", " << size;
      EXPECT_EQ(replies[0].option, option);
      EXPECT_NE(replies[0].type & nbdtest::kRepErrorBit, 0u);
      EXPECT_EQ(replies[0].type == nbdtest::kRepErrTooBig, size > 65536)
          << option << ", " << size << ": " << OptionReplyName(replies[0].type);
      EXPECT_EQ(replies[1].type, nbdtest::kRepAck);
      EXPECT_EQ(handshake.status(), ExitStatus::kOk);
    }
  }
}

TEST(TooBig, IsNothingForAnUnknownOptionWhosePayloadIsReadAway) {
  for (const size_t size : {size_t{65537}, kInputBytes, 3 * kInputBytes + 17}) {
    Handshake handshake;
    handshake.Flags()
        .Option(99, Bytes(size, 'x'))
        .Option(nbdtest::kOptAbort)
        .Run();
    EXPECT_EQ(Types(handshake.received()), "99:NBD_REP_ERR_UNSUP 2:NBD_REP_ACK")
        << size;
  }
}

// A payload that looks like an option is no option.
TEST(Payload, OfARefusedOptionIsNotHaggledOver) {
  Handshake handshake;
  Bytes options;
  for (int i = 0; i < 1000; ++i)
    options += OptionMessage(nbdtest::kOptGo, InfoPayload("", Infos{}));
  handshake.Flags().Option(99, options).Option(nbdtest::kOptAbort).Run();
  EXPECT_EQ(Types(handshake.received()), "99:NBD_REP_ERR_UNSUP 2:NBD_REP_ACK");
}

// -- What a peer does wrong

TEST(OptionMagic, ThatIsWrongEndsTheConnection) {
  Handshake handshake;
  Bytes option = OptionMessage(nbdtest::kOptList, "");
  option[7] = 'X';
  handshake.Flags()
      .Option(nbdtest::kOptList)
      .Raw(option)
      .Option(nbdtest::kOptList)
      .Run();
  EXPECT_EQ(handshake.status(), ExitStatus::kProtocol);
  EXPECT_EQ(Types(handshake.received()), "3:NBD_REP_SERVER 3:NBD_REP_ACK");
}

// A conversation with an option of every kind, and where its messages end.
struct Conversation {
  Bytes bytes;
  std::vector<size_t> ends = {0};

  void Add(const Bytes& message) {
    bytes += message;
    ends.push_back(bytes.size());
  }
};

Conversation LongConversation() {
  Conversation conversation;
  conversation.Add(Writer().U32(3).bytes());
  conversation.Add(OptionMessage(99, Bytes(50, 'x')));
  conversation.Add(OptionMessage(nbdtest::kOptStructuredReply, ""));
  conversation.Add(OptionMessage(nbdtest::kOptList, ""));
  conversation.Add(
      OptionMessage(nbdtest::kOptInfo, InfoPayload("disk", Infos{1, 3})));
  conversation.Add(
      OptionMessage(nbdtest::kOptSetMetaContext,
                    MetaContextPayload("disk", Queries{"base:allocation"})));
  conversation.Add(
      OptionMessage(nbdtest::kOptGo, InfoPayload("disk", Infos{1, 3})));
  return conversation;
}

TEST(Disconnect, BetweenMessagesIsInPeaceAndInsideOneIsNot) {
  const Conversation conversation = LongConversation();
  for (size_t size = 0; size < conversation.bytes.size(); ++size) {
    Handshake handshake;
    handshake.Raw(conversation.bytes.substr(0, size)).Run();
    ASSERT_FALSE(handshake.has_negotiated()) << size;
    const bool between =
        std::find(conversation.ends.begin(), conversation.ends.end(), size) !=
        conversation.ends.end();
    EXPECT_EQ(handshake.status(),
              between ? ExitStatus::kOk : ExitStatus::kProtocol)
        << size << ": " << handshake.reason();
  }
}

TEST(Disconnect, InsideALongPayloadThatIsReadAwayIsNotInPeace) {
  for (const size_t sent :
       {size_t{0}, size_t{1}, size_t{70000}, size_t{500000}}) {
    for (const uint32_t option : {99u, nbdtest::kOptInfo}) {
      Handshake handshake;
      handshake.Flags()
          .Raw(
              Writer().U64(nbdtest::kIHaveOpt).U32(option).U32(1000000).bytes())
          .Raw(Bytes(sent, 'x'))
          .Run();
      EXPECT_EQ(handshake.status(), ExitStatus::kProtocol) << sent;
      EXPECT_EQ(handshake.received(), "") << sent;
    }
  }
}

TEST(Disconnect, ByAResetIsLikeAnEnd) {
  Handshake between;
  between.Flags();
  between.peer().Reset();
  EXPECT_EQ(between.RunWithoutEnd().status(), ExitStatus::kOk);
  Handshake inside;
  inside.Flags().Raw("IHAVE");
  inside.peer().Reset();
  EXPECT_EQ(inside.RunWithoutEnd().status(), ExitStatus::kProtocol);
}

TEST(Disconnect, BeforeAReplyWasReadIsNotInPeace) {
  for (const uint32_t option :
       {nbdtest::kOptList, nbdtest::kOptStructuredReply}) {
    Handshake handshake;
    handshake.peer().BreakAfter(kGreeting, -EPIPE);
    handshake.Flags().Option(option).Run();
    EXPECT_EQ(handshake.status(), ExitStatus::kProtocol) << option;
  }
  Handshake go;
  go.peer().BreakAfter(kGreeting + 30, -EPIPE);
  go.Flags().Option(nbdtest::kOptGo, InfoPayload("", Infos{})).Run();
  EXPECT_FALSE(go.has_negotiated());
  EXPECT_EQ(go.status(), ExitStatus::kProtocol);
  Handshake name;
  name.peer().BreakAfter(kGreeting + 5, -EPIPE);
  name.Flags().Option(nbdtest::kOptExportName, "").Run();
  EXPECT_FALSE(name.has_negotiated());
  EXPECT_EQ(name.status(), ExitStatus::kProtocol);
}

// -- Pieces

// However the bytes are cut on their way in and out, the conversation is the
// same.
TEST(ShortReadsAndWrites, ChangeNothing) {
  const Conversation conversation = LongConversation();
  Handshake whole;
  whole.Raw(conversation.bytes).Run();
  ASSERT_TRUE(whole.has_negotiated());
  for (const size_t limit : {1, 2, 3, 7, 15, 16, 17, 64}) {
    Handshake pieces;
    pieces.peer().LimitReads(limit);
    pieces.peer().LimitWrites(limit);
    pieces.Raw(conversation.bytes).Run();
    ASSERT_TRUE(pieces.has_negotiated()) << limit << ": " << pieces.reason();
    EXPECT_EQ(pieces.greeting() + pieces.received(),
              whole.greeting() + whole.received());
    EXPECT_TRUE(pieces.negotiated().promises.block_status);
  }
}

// -- Shutdown

TEST(Shutdown, RefusesEveryOptionButAbort) {
  for (const uint32_t option :
       {nbdtest::kOptList, nbdtest::kOptInfo, nbdtest::kOptGo,
        nbdtest::kOptStructuredReply, nbdtest::kOptListMetaContext,
        nbdtest::kOptSetMetaContext, nbdtest::kOptStartTls, 99u}) {
    Handshake handshake;
    handshake.shutdown().Set();
    handshake.Flags()
        .Option(option, InfoPayload("", Infos{}))
        .Option(nbdtest::kOptAbort)
        .Run();
    EXPECT_EQ(Types(handshake.received()),
              std::to_string(option) + ":NBD_REP_ERR_SHUTDOWN 2:NBD_REP_ACK");
    EXPECT_EQ(handshake.status(), ExitStatus::kOk);
  }
}

TEST(Shutdown, RefusesAnOptionThatIsTooBigAsWell) {
  Handshake handshake;
  handshake.shutdown().Set();
  handshake.Flags()
      .Option(nbdtest::kOptList, Bytes(300000, 'x'))
      .Option(nbdtest::kOptAbort)
      .Run();
  EXPECT_EQ(Types(handshake.received()),
            "3:NBD_REP_ERR_SHUTDOWN 2:NBD_REP_ACK");
}

TEST(Shutdown, EndsTheConnectionWhereThereIsNoErrorReply) {
  Handshake handshake;
  handshake.shutdown().Set();
  handshake.Flags().Option(nbdtest::kOptExportName, "").Run();
  EXPECT_FALSE(handshake.has_negotiated());
  EXPECT_EQ(handshake.status(), ExitStatus::kOk);
  EXPECT_EQ(handshake.received(), "");
}

TEST(Shutdown, DoesNotWaitForASilentClient) {
  const Bytes flags = Writer().U32(3).bytes();
  for (const Bytes& said :
       {Bytes(), flags.substr(0, 2), flags, flags + "IHAVE"}) {
    Handshake handshake;
    handshake.shutdown().Set();
    handshake.Raw(said).RunWithoutEnd();
    EXPECT_FALSE(handshake.has_negotiated()) << said.size();
    EXPECT_EQ(handshake.status(), ExitStatus::kOk) << said.size();
  }
}

}  // namespace
}  // namespace nbdinetd
