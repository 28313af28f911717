// --block-size=MIN:PREFERRED:MAX ("Size constraints" of the specification): the
// real program over a socket pair.

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint32_t kBlock = 4096;
constexpr uint32_t kMax = 1 << 20;
constexpr uint64_t kImageSize = 4 << 20;
const std::vector<uint16_t> kNoInfos;

// Served with blocks of 4 KiB, and payloads of up to 1 MiB.
class BlockSize : public testing::TestWithParam<Style> {
 protected:
  Peer& Open(const TempImage& image, const std::string& sizes) {
    session_.emplace(
        std::vector<std::string>{"--block-size=" + sizes, image.path()});
    peer().Open();
    return peer();
  }
  Peer& Start(const TempImage& image) {
    session_.emplace(
        std::vector<std::string>{"--block-size=4K:64K:1M", image.path()});
    info_ = peer().EnterTransmission(GetParam(), GetParam() != Style::kSimple);
    return peer();
  }
  Peer& peer() { return session_->peer(); }
  Session& session() { return *session_; }
  const ExportInfo& info() const { return info_; }
  void ExpectAlive() {
    const Reply reply =
        peer().Transact({.type = kCmdRead, .offset = kBlock, .length = kBlock});
    ASSERT_TRUE(HasError(reply, kNbdOk));
    ASSERT_TRUE(SameBytes(reply.data, Pattern(kBlock, kBlock)));
  }

 private:
  std::optional<Session> session_;
  ExportInfo info_;
};

INSTANTIATE_TEST_SUITE_P(EachStyle, BlockSize, testing::ValuesIn(kEachStyle));

TEST_P(BlockSize, IsToldToClientsThatAskAndToThoseThatDoNot) {
  const TempImage image = TempImage::WithPattern(kImageSize);
  const ExportInfo::BlockSize wanted = {
      .minimum = 512, .preferred = 2048, .maximum_payload = 65536};
  for (const bool asks : {false, true}) {
    Open(image, "512:2K:64K");
    if (GetParam() == Style::kStructured) peer().NegotiateStructuredReplies();
    if (GetParam() == Style::kExtended) peer().NegotiateExtendedHeaders();
    const std::vector<uint16_t> infos =
        asks ? std::vector<uint16_t>{kInfoBlockSize} : kNoInfos;
    const ExportInfo known =
        ParseInfo(peer().Negotiate(kOptInfo, InfoPayload("", infos)));
    EXPECT_EQ(known.block_size, wanted);
    EXPECT_EQ(peer().Go("", infos), known);
    session().End();
  }
}

TEST_P(BlockSize, TheExportsSizeIsAMultipleOfTheMinimum) {
  for (const uint64_t rest : {uint64_t{0}, uint64_t{1}, uint64_t{kBlock - 1}}) {
    const TempImage image = TempImage::WithPattern(8 * kBlock + rest);
    Start(image);
    EXPECT_EQ(info().size, 8 * kBlock);
    EXPECT_TRUE(HasError(
        peer().Transact(
            {.type = kCmdRead, .offset = 8 * kBlock, .length = kBlock}),
        kNbdEinval));
    EXPECT_TRUE(HasError(
        peer().Transact({.type = kCmdWriteZeroes, .length = 8 * kBlock}),
        kNbdOk));
    session().End();
    EXPECT_TRUE(
        SameBytes(image.Read(8 * kBlock, rest), Pattern(8 * kBlock, rest)));
  }
}

TEST_P(BlockSize, ARequestThatIsNotAlignedIsEinvalAndChangesNothing) {
  const TempImage image = TempImage::WithPattern(kImageSize);
  Start(image);
  const std::string payload(2 * kBlock, 'x');
  for (const uint16_t type : {kCmdRead, kCmdWrite, kCmdTrim, kCmdCache,
                              kCmdWriteZeroes, kCmdBlockStatus}) {
    const struct {
      uint64_t offset;
      uint32_t length;
    } rows[] = {{1, kBlock},
                {512, kBlock},
                {kBlock, kBlock - 1},
                {kBlock, 512},
                {kBlock - 1, kBlock + 1},
                {2048, 2048},
                {kImageSize - 512, 512}};
    for (const auto& row : rows) {
      const Reply reply = peer().Transact(
          {.type = type, .offset = row.offset, .length = row.length},
          type == kCmdWrite ? payload.substr(0, row.length) : "");
      EXPECT_TRUE(HasError(reply, kNbdEinval))
          << type << " at " << row.offset << ", " << row.length << " bytes";
      ExpectAlive();
    }
  }
  session().End();
  EXPECT_TRUE(SameBytes(image.Read(0, kImageSize), Pattern(0, kImageSize)));
}

TEST_P(BlockSize, ARequestInWholeBlocksIsServed) {
  const TempImage image = TempImage::WithPattern(kImageSize);
  Start(image);
  EXPECT_TRUE(HasError(
      peer().Transact({.type = kCmdWrite, .offset = kBlock, .length = kBlock},
                      Pattern(kBlock, kBlock)),
      kNbdOk));
  for (const uint16_t type : {kCmdFlush, kCmdCache, kCmdBlockStatus}) {
    if (type == kCmdBlockStatus && GetParam() == Style::kSimple) continue;
    const uint32_t length = type == kCmdFlush ? 0 : kBlock;
    EXPECT_TRUE(
        HasError(peer().Transact({.type = type, .length = length}), kNbdOk))
        << type;
  }
  ExpectAlive();
  session().End();
}

TEST_P(BlockSize, TheMaximumLimitsReadsAndWrites) {
  const TempImage image = TempImage::WithPattern(kImageSize);
  Start(image);
  EXPECT_TRUE(
      HasError(peer().Transact({.type = kCmdRead, .length = kMax}), kNbdOk));
  EXPECT_TRUE(HasError(
      peer().Transact({.type = kCmdWrite, .length = kMax}, Pattern(0, kMax)),
      kNbdOk));
  EXPECT_TRUE(
      HasError(peer().Transact({.type = kCmdRead, .length = kMax + kBlock}),
               GetParam() == Style::kSimple ? kNbdEinval : kNbdEoverflow));
  ExpectAlive();
  // What has no payload may be longer.
  for (const uint16_t type : {kCmdTrim, kCmdWriteZeroes}) {
    EXPECT_TRUE(HasError(
        peer().Transact(
            {.type = type, .offset = 1 << 20, .length = kImageSize - kMax}),
        kNbdOk));
  }
  // A client may send it all the same: it is read past. With its flag, the
  // server should disconnect, and doesn't wait for the payload.
  const Request request = {.type = kCmdWrite, .length = kMax + kBlock};
  if (GetParam() == Style::kExtended) {
    peer().Send(peer().Prepare(request));
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol));
    return;
  }
  EXPECT_TRUE(HasError(peer().Transact(request, Bytes(kMax + kBlock, 'x')),
                       kNbdEinval));
  ExpectAlive();
  session().End();
}

TEST_P(BlockSize, ExtentsAreWholeBlocksAndAHoleCoversNoData) {
  if (GetParam() == Style::kSimple) return;
  const TempImage image = TempImage::Sparse(16 << 16);
  // Data inside one block of 64 KiB, over the edge of two, and at the end.
  image.Write((2 << 16) + 8192, "a");
  image.Write((5 << 16) - 4096, std::string(8192, 'b'));
  image.Write((16 << 16) - 1, "c");
  Open(image, "64K:64K:1M");
  if (GetParam() == Style::kStructured) peer().NegotiateStructuredReplies();
  if (GetParam() == Style::kExtended) peer().NegotiateExtendedHeaders();
  peer().SelectAllocationContext();
  peer().Go();
  for (const uint16_t flags : {uint16_t{0}, kCmdFlagReqOne}) {
    for (uint64_t offset = 0; offset < 16 << 16;) {
      const Reply reply = peer().Transact(
          {.type = kCmdBlockStatus,
           .flags = flags,
           .offset = offset,
           .length = static_cast<uint32_t>((16 << 16) - offset)});
      ASSERT_TRUE(HasError(reply, kNbdOk));
      for (const auto& extent : reply.extents) {
        ASSERT_EQ(extent.length % (1 << 16), 0u) << offset;
        for (uint64_t end = offset + extent.length; offset < end;
             offset += 1 << 16) {
          const uint64_t block = offset >> 16;
          const bool data =
              block == 2 || block == 4 || block == 5 || block == 15;
          EXPECT_EQ(extent.flags == 0, data) << "block " << block;
        }
      }
    }
  }
  session().End();
}

}  // namespace
