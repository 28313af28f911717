#include "protocol/option.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::InfoPayload;
using nbdtest::MetaContextPayload;
using nbdtest::Reader;
using nbdtest::Writer;

using Infos = std::vector<uint16_t>;
using Queries = std::vector<std::string>;

// -- Greeting and headers

TEST(Greeting, IsBothMagicsAndTheTwoHandshakeFlags) {
  EXPECT_EQ(EncodeGreeting(),
            Writer()
                .U64(nbdtest::kNbdMagic)
                .U64(nbdtest::kIHaveOpt)
                .U16(nbdtest::kFlagFixedNewstyle | nbdtest::kFlagNoZeroes)
                .bytes());
  EXPECT_EQ(EncodeGreeting().size(), kGreetingBytes);
}

TEST(OptionHeader, IsTakenApart) {
  const Bytes bytes =
      Writer().U64(nbdtest::kIHaveOpt).U32(7).U32(0xfffffffe).bytes();
  ASSERT_EQ(bytes.size(), kOptionHeaderBytes);
  const std::optional<OptionHeader> header = DecodeOptionHeader(bytes);
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->option, 7u);
  EXPECT_EQ(header->length, 0xfffffffeu);
}

TEST(OptionHeader, IsRefusedWhenAnyBitOfTheMagicIsWrong) {
  const Bytes good = Writer().U64(nbdtest::kIHaveOpt).U32(7).U32(0).bytes();
  for (int bit = 0; bit < 64; ++bit) {
    Bytes bad = good;
    bad[static_cast<size_t>(bit / 8)] ^= static_cast<char>(1 << (bit % 8));
    EXPECT_FALSE(DecodeOptionHeader(bad).has_value()) << bit;
  }
}

// -- Strings

TEST(ValidString, IsUtf8WithoutNulOfAtMost4096Bytes) {
  struct Row {
    std::string text;
    bool valid;
  };
  const Row rows[] = {
      {"", true},
      {"disk", true},
      {"disk \xc3\xa4\xe2\x82\xac", true},
      {"with\nnewline", true},
      {std::string(4096, 'n'), true},
      {std::string(4097, 'n'), false},
      // 4096 is a number of bytes, not of characters.
      {std::string(4094, 'n') + "\xc3\xa4", true},
      {std::string(4095, 'n') + "\xc3\xa4", false},
      {std::string("a\0b", 3), false},
      {std::string("\0", 1), false},
      {"\xff", false},
      {"\xc0\x80", false},
      {"\xed\xa0\x80", false},
      {"\xe2\x82", false},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(IsValidString(row.text), row.valid)
        << row.text.size() << " bytes: " << row.text;
  }
}

// -- The payload of NBD_OPT_INFO and NBD_OPT_GO

TEST(InfoRequest, IsTakenApart) {
  const std::pair<std::string, Infos> rows[] = {
      {"", {}},
      {"disk", {}},
      {"", {3}},
      {"disk \xc3\xa4", {0, 1, 2, 3}},
      {"disk", {65535, 3, 3}},
      {std::string(4096, 'n'), {1}},
  };
  for (const auto& [name, infos] : rows) {
    const Bytes payload = InfoPayload(name, infos);
    const std::optional<InfoRequest> request = DecodeInfoRequest(payload);
    ASSERT_TRUE(request.has_value()) << name;
    EXPECT_EQ(request->name, name);
    EXPECT_EQ(request->information, infos);
  }
}

TEST(InfoRequest, MayListAsManyAsTheCountCanSay) {
  const Infos infos(65535, 3);
  const Bytes payload = InfoPayload("", infos);
  const std::optional<InfoRequest> request = DecodeInfoRequest(payload);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->information.size(), 65535u);
}

TEST(InfoRequest, IsRefusedWhereverItIsCut) {
  const Bytes whole = InfoPayload("disk", Infos{1, 2, 3});
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(DecodeInfoRequest(whole.substr(0, size)).has_value()) << size;
  }
}

TEST(InfoRequest, IsRefusedWhenItsLengthsDoNotAddUp) {
  const std::pair<const char*, Bytes> rows[] = {
      {"a byte too many", InfoPayload("disk", Infos{1}) + '\0'},
      {"an information request too many",
       InfoPayload("disk", Infos{1}) + Bytes("\0\1", 2)},
      {"a count too large",
       Writer().String32("disk").U16(3).U16(1).U16(2).bytes()},
      {"a count too small",
       Writer().String32("disk").U16(1).U16(1).U16(2).bytes()},
      {"the name longer than the rest", Writer().U32(5).Raw("disk").bytes()},
      {"the name up to the end", Writer().U32(6).Raw("disk").U16(0).bytes()},
      {"the greatest length",
       Writer().U32(UINT32_MAX).Raw("disk").U16(0).bytes()},
      {"a length with the sign bit",
       Writer().U32(1u << 31).Raw("disk").U16(0).bytes()},
  };
  for (const auto& [what, payload] : rows) {
    EXPECT_FALSE(DecodeInfoRequest(payload).has_value()) << what;
  }
}

// Which is for the catalog to say.
TEST(InfoRequest, IsTakenApartWhenTheNameIsNoValidString) {
  for (const std::string& name :
       {std::string("a\0b", 3), std::string("\xff"), std::string(4097, 'n'),
        std::string("\xc3")}) {
    const Bytes payload = InfoPayload(name, Infos{});
    const std::optional<InfoRequest> request = DecodeInfoRequest(payload);
    ASSERT_TRUE(request.has_value()) << name.size();
    EXPECT_EQ(request->name, name);
  }
}

// -- The payload of the metadata context options

TEST(MetaContextRequest, IsTakenApart) {
  const std::pair<std::string, Queries> rows[] = {
      {"", {}},
      {"disk", {"base:allocation"}},
      {"disk", {"base:", "x-other:thing", "base:allocation"}},
      {"", {"", "no colon", "\xc3\xa4:"}},
      {std::string(4096, 'n'), {std::string(4096, 'q')}},
  };
  for (const auto& [name, queries] : rows) {
    const Bytes payload = MetaContextPayload(name, queries);
    const std::optional<MetaContextRequest> request =
        DecodeMetaContextRequest(payload);
    ASSERT_TRUE(request.has_value()) << name;
    EXPECT_EQ(request->name, name);
    EXPECT_EQ(Queries(request->queries.begin(), request->queries.end()),
              queries);
  }
}

TEST(MetaContextRequest, IsRefusedWhereverItIsCut) {
  const Bytes whole =
      MetaContextPayload("disk", Queries{"base:allocation", "x-a:b"});
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(DecodeMetaContextRequest(whole.substr(0, size)).has_value())
        << size;
  }
}

TEST(MetaContextRequest, IsRefusedWhenItsLengthsDoNotAddUp) {
  const std::pair<const char*, Bytes> rows[] = {
      {"a byte too many",
       MetaContextPayload("disk", Queries{"base:allocation"}) + '\0'},
      {"no count", Writer().String32("disk").bytes()},
      {"a count too large",
       Writer().String32("disk").U32(2).String32("base:").bytes()},
      {"a count too small", Writer()
                                .String32("disk")
                                .U32(1)
                                .String32("base:")
                                .String32("base:")
                                .bytes()},
      {"a count of zero with a query",
       Writer().String32("").U32(0).String32("base:").bytes()},
      {"a query longer than the rest",
       Writer().String32("").U32(1).U32(6).Raw("base:").bytes()},
      {"a query of the greatest length",
       Writer().String32("").U32(1).U32(UINT32_MAX).Raw("base:").bytes()},
      {"the name longer than the rest",
       Writer().U32(100).Raw("disk").U32(0).bytes()},
  };
  for (const auto& [what, payload] : rows) {
    EXPECT_FALSE(DecodeMetaContextRequest(payload).has_value()) << what;
  }
}

// Four billion queries must not be allocated for because a client says that
// they come.
TEST(MetaContextRequest,
     ACountThatCannotBeTrueIsRefusedBeforeAnythingIsAllocated) {
  for (const uint32_t count :
       {UINT32_MAX, 1u << 31, 1u << 30, 0x40000001u, 3u}) {
    const Bytes payload =
        Writer().String32("").U32(count).U32(0).U32(0).bytes();
    EXPECT_FALSE(DecodeMetaContextRequest(payload).has_value()) << count;
  }
}

TEST(MetaContextRequest, IsRefusedWhenAQueryIsNoValidString) {
  for (const std::string& bad :
       {std::string("a\0:", 3), std::string("\xff:"), std::string(4097, 'n')}) {
    const Bytes payload = MetaContextPayload(bad, Queries{"base:"});
    const std::optional<MetaContextRequest> request =
        DecodeMetaContextRequest(payload);
    ASSERT_TRUE(request.has_value());
    EXPECT_EQ(request->name, bad);
    EXPECT_FALSE(
        DecodeMetaContextRequest(MetaContextPayload("", Queries{"base:", bad}))
            .has_value());
  }
}

// -- Replies

// One reply, as the specification lays it out.
Bytes ReplyMessage(uint32_t option, uint32_t type, const Bytes& payload) {
  return Writer()
      .U64(nbdtest::kOptionReplyMagic)
      .U32(option)
      .U32(type)
      .String32(payload)
      .bytes();
}

TEST(OptionReplies, AreEmptyAtFirst) {
  EXPECT_EQ(OptionReplies(3).bytes(), "");
}

TEST(OptionReplies, NameTheOptionThatTheyAnswer) {
  OptionReplies replies(0xdeadbeef);
  replies.Error(NBD_REP_ERR_UNSUP, "no");
  EXPECT_EQ(replies.bytes(),
            ReplyMessage(0xdeadbeef, nbdtest::kRepErrUnsup, "no"));
}

TEST(OptionReplies, AnAckHasNoData) {
  OptionReplies replies(8);
  replies.Ack();
  EXPECT_EQ(replies.bytes(), ReplyMessage(8, nbdtest::kRepAck, ""));
}

TEST(OptionReplies, AnErrorCarriesItsSentence) {
  const std::pair<NbdOptionReply, uint32_t> rows[] = {
      {NBD_REP_ERR_UNSUP, nbdtest::kRepErrUnsup},
      {NBD_REP_ERR_POLICY, nbdtest::kRepErrPolicy},
      {NBD_REP_ERR_INVALID, nbdtest::kRepErrInvalid},
      {NBD_REP_ERR_UNKNOWN, nbdtest::kRepErrUnknown},
      {NBD_REP_ERR_SHUTDOWN, nbdtest::kRepErrShutdown},
      {NBD_REP_ERR_TOO_BIG, nbdtest::kRepErrTooBig},
  };
  for (const auto& [type, number] : rows) {
    OptionReplies replies(6);
    replies.Error(type, "because");
    EXPECT_EQ(replies.bytes(), ReplyMessage(6, number, "because")) << number;
  }
}

TEST(OptionReplies, AServerIsItsNameAndItsDescription) {
  OptionReplies replies(3);
  replies.Server("disk", "the disk of the printer");
  replies.Server("", "");
  EXPECT_EQ(
      replies.bytes(),
      ReplyMessage(
          3, nbdtest::kRepServer,
          Writer().String32("disk").Raw("the disk of the printer").bytes()) +
          ReplyMessage(3, nbdtest::kRepServer, Writer().U32(0).bytes()));
}

TEST(OptionReplies, InfoExportIsSizeAndTransmissionFlags) {
  OptionReplies replies(7);
  replies.InfoExport(0x0102030405060708, 0x0dad);
  EXPECT_EQ(replies.bytes(),
            ReplyMessage(
                7, nbdtest::kRepInfo,
                Writer().U16(0).U64(0x0102030405060708).U16(0x0dad).bytes()));
}

TEST(OptionReplies, InfoNameAndInfoDescriptionAreStrings) {
  OptionReplies replies(6);
  replies.InfoString(NBD_INFO_NAME, "disk");
  replies.InfoString(NBD_INFO_DESCRIPTION, "");
  EXPECT_EQ(
      replies.bytes(),
      ReplyMessage(6, nbdtest::kRepInfo, Writer().U16(1).Raw("disk").bytes()) +
          ReplyMessage(6, nbdtest::kRepInfo, Writer().U16(2).bytes()));
}

TEST(OptionReplies, InfoBlockSizeIsMinimumPreferredMaximum) {
  OptionReplies replies(6);
  replies.InfoBlockSize(1, 4096, 32 << 20);
  EXPECT_EQ(
      replies.bytes(),
      ReplyMessage(6, nbdtest::kRepInfo,
                   Writer().U16(3).U32(1).U32(4096).U32(32 << 20).bytes()));
}

TEST(OptionReplies, AMetaContextIsItsIdAndItsName) {
  OptionReplies replies(10);
  replies.MetaContext(77, "base:allocation");
  replies.Ack();
  EXPECT_EQ(replies.bytes(),
            ReplyMessage(10, nbdtest::kRepMetaContext,
                         Writer().U32(77).Raw("base:allocation").bytes()) +
                ReplyMessage(10, nbdtest::kRepAck, ""));
}

TEST(ExportNameReply, EndsWith124ZeroesUnlessTheyAreNotWanted) {
  const Bytes begin = Writer().U64(UINT64_MAX - 1).U16(0x0103).bytes();
  EXPECT_EQ(EncodeExportNameReply(UINT64_MAX - 1, 0x0103, /*no_zeroes=*/true),
            begin);
  EXPECT_EQ(EncodeExportNameReply(UINT64_MAX - 1, 0x0103, /*no_zeroes=*/false),
            begin + Bytes(124, '\0'));
}

// What the tests of the whole program speak are the numbers of the
// specification; these are the program's own.
TEST(OptionNumbers, AreThoseOfTheSpecification) {
  const std::pair<uint32_t, uint32_t> rows[] = {
      {NBD_OPT_EXPORT_NAME, nbdtest::kOptExportName},
      {NBD_OPT_ABORT, nbdtest::kOptAbort},
      {NBD_OPT_LIST, nbdtest::kOptList},
      {NBD_OPT_STARTTLS, nbdtest::kOptStartTls},
      {NBD_OPT_INFO, nbdtest::kOptInfo},
      {NBD_OPT_GO, nbdtest::kOptGo},
      {NBD_OPT_STRUCTURED_REPLY, nbdtest::kOptStructuredReply},
      {NBD_OPT_LIST_META_CONTEXT, nbdtest::kOptListMetaContext},
      {NBD_OPT_SET_META_CONTEXT, nbdtest::kOptSetMetaContext},
  };
  for (const auto& [ours, specified] : rows) EXPECT_EQ(ours, specified);
  EXPECT_EQ(kMaxStringBytes, nbdtest::kMaxString);
  EXPECT_EQ(kMaxOptionBytes, nbdtest::kMaxOptionPayload);
  EXPECT_EQ(kAdvertisedPayloadBytes, nbdtest::kMaxPayload);
  EXPECT_EQ(kMaxPayloadBytes, nbdtest::kLongestRequest);
}

TEST(TransmissionFlags, AreThoseOfTheSpecification) {
  const std::pair<uint16_t, uint16_t> rows[] = {
      {NBD_FLAG_HAS_FLAGS, nbdtest::kHasFlags},
      {NBD_FLAG_READ_ONLY, nbdtest::kReadOnly},
      {NBD_FLAG_SEND_FLUSH, nbdtest::kSendFlush},
      {NBD_FLAG_SEND_FUA, nbdtest::kSendFua},
      {NBD_FLAG_ROTATIONAL, nbdtest::kRotational},
      {NBD_FLAG_SEND_TRIM, nbdtest::kSendTrim},
      {NBD_FLAG_SEND_WRITE_ZEROES, nbdtest::kSendWriteZeroes},
      {NBD_FLAG_SEND_DF, nbdtest::kSendDf},
      {NBD_FLAG_CAN_MULTI_CONN, nbdtest::kCanMultiConn},
      {NBD_FLAG_SEND_CACHE, nbdtest::kSendCache},
      {NBD_FLAG_SEND_FAST_ZERO, nbdtest::kSendFastZero},
  };
  for (const auto& [ours, specified] : rows) EXPECT_EQ(ours, specified);
}

}  // namespace
}  // namespace nbdinetd
