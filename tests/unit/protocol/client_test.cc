// The client's side of the protocol, held to the server's, and to bytes of
// neither.
#include "protocol/client.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "protocol/option.h"
#include "protocol/reply.h"
#include "protocol/request.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Writer;

TEST(Client, ReadsTheGreetingThatAServerWrites) {
  const std::optional<Greeting> greeting = DecodeGreeting(EncodeGreeting());
  ASSERT_TRUE(greeting.has_value());
  EXPECT_TRUE(greeting->newstyle);
  EXPECT_EQ(greeting->handshake_flags,
            NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

TEST(Client, TellsOldstyleFromNoServer) {
  const Bytes oldstyle =
      Writer().U64(NBD_MAGIC).U64(0x00420281861253).U16(3).bytes();
  const std::optional<Greeting> greeting = DecodeGreeting(oldstyle);
  ASSERT_TRUE(greeting.has_value());
  EXPECT_FALSE(greeting->newstyle);
  EXPECT_EQ(greeting->handshake_flags, 0);
  EXPECT_FALSE(DecodeGreeting("SSH-2.0-OpenSSH_9.").has_value());
}

TEST(Client, WritesOptionsThatAServerReads) {
  const std::string name = "a b";
  const std::string payload = EncodeInfoRequest(name);
  const std::string option = EncodeOption(NBD_OPT_INFO, payload);
  const std::optional<OptionHeader> header = DecodeOptionHeader(option);
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->option, NBD_OPT_INFO);
  EXPECT_EQ(header->length, payload.size());
  EXPECT_EQ(option.substr(kOptionHeaderBytes), payload);
  const std::optional<InfoRequest> request = DecodeInfoRequest(payload);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->name, name);
  EXPECT_EQ(request->information, (std::vector<uint16_t>{NBD_INFO_BLOCK_SIZE}));
  EXPECT_EQ(EncodeClientFlags(3), std::string("\0\0\0\3", 4));
}

TEST(Client, ReadsTheRepliesThatAServerWrites) {
  OptionReplies replies(NBD_OPT_GO);
  replies.InfoExport(uint64_t{5} << 40, NBD_FLAG_HAS_FLAGS);
  const std::string info = replies.bytes();
  std::optional<OptionReplyHeader> header = DecodeOptionReplyHeader(info);
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->option, NBD_OPT_GO);
  EXPECT_EQ(header->type, NBD_REP_INFO);
  EXPECT_FALSE(header->is_error());
  EXPECT_EQ(header->length, info.size() - kOptionReplyHeaderBytes);
  ExportInformation information;
  EXPECT_TRUE(
      AddInformation(info.substr(kOptionReplyHeaderBytes), information));
  EXPECT_EQ(information.size_bytes, uint64_t{5} << 40);
  EXPECT_EQ(information.transmission_flags, NBD_FLAG_HAS_FLAGS);
  replies.Clear();
  replies.InfoBlockSize(512, 4096, 1 << 20);
  EXPECT_TRUE(AddInformation(replies.bytes().substr(kOptionReplyHeaderBytes),
                             information));
  EXPECT_EQ(information.minimum_block_bytes, 512u);
  replies.Clear();
  replies.Error(NBD_REP_ERR_UNKNOWN, "no");
  header = DecodeOptionReplyHeader(replies.bytes());
  ASSERT_TRUE(header.has_value());
  EXPECT_TRUE(header->is_error());
  EXPECT_EQ(OptionErrorName(header->type), "NBD_REP_ERR_UNKNOWN");
  EXPECT_EQ(OptionErrorName(0x8000abcd), "error 0x8000abcd");
}

TEST(Client, RefusesInformationOfTheWrongLength) {
  ExportInformation information;
  for (const Bytes& payload :
       {Bytes(), Bytes(1, 0), Writer().U16(NBD_INFO_EXPORT).U64(1).bytes(),
        Writer().U16(NBD_INFO_EXPORT).U64(1).U16(1).Raw("x").bytes(),
        Writer().U16(NBD_INFO_BLOCK_SIZE).U32(1).U32(1).bytes(),
        Writer().U16(NBD_INFO_BLOCK_SIZE).U64(1).U64(1).bytes()}) {
    EXPECT_FALSE(AddInformation(payload, information));
    EXPECT_FALSE(information.size_bytes.has_value());
  }
  EXPECT_TRUE(AddInformation(Writer().U16(77).Raw("x").bytes(), information));
  EXPECT_FALSE(DecodeOptionReplyHeader(Bytes(20, 'x')).has_value());
}

TEST(Client, WritesRequestsAndReadsReplies) {
  const std::string bytes = EncodeRequest(NBD_CMD_READ, 7, 4096, 512);
  const std::optional<Request> request =
      RequestDecoder(Headers::kCompact, 1).Decode(bytes);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->type, NBD_CMD_READ);
  EXPECT_EQ(request->cookie, 7u);
  EXPECT_EQ(request->offset, 4096u);
  EXPECT_EQ(request->length, 512u);
  char out[kMaxReplyBytes];
  const char* end =
      ReplyEncoder(ReplyStyle::kSimple).EncodeError(out, *request, NBD_EIO, "");
  ASSERT_EQ(static_cast<size_t>(end - out), kSimpleReplyBytes);
  const std::optional<SimpleReply> reply =
      DecodeSimpleReply({out, kSimpleReplyBytes});
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->error, NBD_EIO);
  EXPECT_EQ(reply->cookie, 7u);
  out[0] = 'x';
  EXPECT_FALSE(DecodeSimpleReply({out, kSimpleReplyBytes}).has_value());
}

}  // namespace
}  // namespace nbdinetd
