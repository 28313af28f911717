#include "transmission/reply_sender.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/limits.h"
#include "support/image.h"
#include "support/memory_stream.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;
using nbdtest::Pattern;
using nbdtest::Writer;

constexpr uint64_t kCookie = 0x1122334455667788;
constexpr uint64_t kOffset = 4096;

Request Read(uint64_t length, uint64_t offset = kOffset) {
  Request request;
  request.type = NBD_CMD_READ;
  request.cookie = kCookie;
  request.sent_offset = offset;
  request.offset = offset;
  request.length = length;
  return request;
}

Bytes SimpleReply(uint32_t error, const Bytes& data = "") {
  return Writer()
      .U32(nbdtest::kSimpleReplyMagic)
      .U32(error)
      .U64(kCookie)
      .Raw(data)
      .bytes();
}

Bytes Chunk(bool done, uint16_t type, const Bytes& payload) {
  return Writer()
      .U32(nbdtest::kStructuredReplyMagic)
      .U16(done ? nbdtest::kReplyFlagDone : 0)
      .U16(type)
      .U64(kCookie)
      .String32(payload)
      .bytes();
}

Bytes DataChunk(bool done, uint64_t offset, const Bytes& data) {
  return Chunk(done, nbdtest::kReplyOffsetData,
               Writer().U64(offset).Raw(data).bytes());
}

// A sender of one style, with the peer that receives.
struct Sender {
  explicit Sender(ReplyStyle style) : replies(channel, style, statistics) {}

  MemoryPeer peer;
  Channel channel{std::make_unique<MemoryStream>(peer), -1};
  Statistics statistics;
  ReplySender replies;
};

// Data as the caller of the two-step functions fills it in.
void AddData(ReplySender& replies, const Request& request, uint64_t offset,
             const Bytes& data, bool done) {
  std::memcpy(replies.ReserveData(data.size()), data.data(), data.size());
  replies.CommitData(request, offset, data.size(), done);
}

void AddPiece(ReplySender& replies, const Bytes& data) {
  std::memcpy(replies.ReservePiece(data.size()), data.data(), data.size());
  replies.CommitPiece(data.size());
}

// -- What is on the wire

TEST(SimpleReplies, AreHeadersWithDataBehindThem) {
  Sender sender(ReplyStyle::kSimple);
  const Bytes data = Pattern(0, 1000);
  sender.replies.Success(Read(0));
  AddData(sender.replies, Read(1000), kOffset, data, true);
  sender.replies.Data(Read(1000), kOffset, {data.data(), data.size()}, true);
  sender.replies.Error(Read(1000), NBD_EINVAL, "a sentence that has no place");
  sender.replies.ErrorAt(Read(1000), NBD_EIO, "nor has this", kOffset);
  EXPECT_TRUE(sender.replies.Flush());
  EXPECT_EQ(sender.peer.Receive(), SimpleReply(0) + SimpleReply(0, data) +
                                       SimpleReply(0, data) +
                                       SimpleReply(nbdtest::kNbdEinval) +
                                       SimpleReply(nbdtest::kNbdEio));
}

TEST(StructuredReplies, AreChunks) {
  Sender sender(ReplyStyle::kStructured);
  const Bytes data = Pattern(0, 1000);
  sender.replies.Success(Read(0));
  AddData(sender.replies, Read(2000), kOffset, data, false);
  sender.replies.Data(Read(2000), kOffset + 1000, {data.data(), data.size()},
                      true);
  sender.replies.Error(Read(1000), NBD_EINVAL, "why");
  sender.replies.ErrorAt(Read(1000), NBD_EIO, "where", kOffset + 5);
  const StatusDescriptor descriptors[] = {{512, 0}, {1024, 3}};
  sender.replies.BlockStatus(Read(1536), 7, descriptors);
  EXPECT_TRUE(sender.replies.Flush());
  EXPECT_EQ(
      sender.peer.Receive(),
      Chunk(true, nbdtest::kReplyNone, "") + DataChunk(false, kOffset, data) +
          DataChunk(true, kOffset + 1000, data) +
          Chunk(true, nbdtest::kReplyError,
                Writer().U32(nbdtest::kNbdEinval).U16(3).Raw("why").bytes()) +
          Chunk(true, nbdtest::kReplyErrorOffset,
                Writer()
                    .U32(nbdtest::kNbdEio)
                    .U16(5)
                    .Raw("where")
                    .U64(kOffset + 5)
                    .bytes()) +
          Chunk(true, nbdtest::kReplyBlockStatus,
                Writer().U32(7).U32(512).U32(0).U32(1024).U32(3).bytes()));
}

// -- Holes

Bytes HoleChunk(bool done, uint64_t offset, uint32_t length) {
  return Chunk(done, nbdtest::kReplyOffsetHole,
               Writer().U64(offset).U32(length).bytes());
}

// Data that lies in the sender's buffer, and data that lies elsewhere.
struct Way {
  const char* name;
  void (*send)(ReplySender& replies, const Request& request, uint64_t offset,
               const Bytes& data);
};
const Way kWays[] = {
    {"from the buffer",
     [](ReplySender& replies, const Request& request, uint64_t offset,
        const Bytes& data) { AddData(replies, request, offset, data, true); }},
    {"from elsewhere",
     [](ReplySender& replies, const Request& request, uint64_t offset,
        const Bytes& data) {
       replies.Data(request, offset, {data.data(), data.size()}, true);
     }},
};

TEST(Holes, AreBlocksOfZeroesAmongTheData) {
  constexpr uint64_t kAt = uint64_t{7} << 32;
  constexpr uint32_t kBlock = 4096;
  const Bytes data = Pattern(0, 2 * kBlock);
  const Bytes zeroes(3 * kBlock, '\0');
  for (const Way& way : kWays) {
    const auto sent = [&](uint64_t offset, const Bytes& bytes) {
      Sender sender(ReplyStyle::kStructured);
      way.send(sender.replies, Read(bytes.size()), offset, bytes);
      EXPECT_TRUE(sender.replies.Flush());
      EXPECT_EQ(sender.statistics.bytes_read, bytes.size());
      return sender.peer.Receive();
    };
    EXPECT_TRUE(sent(kAt, zeroes) == HoleChunk(true, kAt, 3 * kBlock))
        << way.name;
    EXPECT_TRUE(sent(kAt, data + zeroes) ==
                DataChunk(false, kAt, data) +
                    HoleChunk(true, kAt + 2 * kBlock, 3 * kBlock))
        << way.name;
    EXPECT_TRUE(sent(kAt, zeroes + data + zeroes + data) ==
                HoleChunk(false, kAt, 3 * kBlock) +
                    DataChunk(false, kAt + 3 * kBlock, data) +
                    HoleChunk(false, kAt + 5 * kBlock, 3 * kBlock) +
                    DataChunk(true, kAt + 8 * kBlock, data))
        << way.name;
    // Blocks are those of the export.
    EXPECT_TRUE(sent(kAt + 4000, zeroes) ==
                DataChunk(false, kAt + 4000, zeroes.substr(0, 96)) +
                    HoleChunk(false, kAt + kBlock, 2 * kBlock) +
                    DataChunk(true, kAt + 3 * kBlock, zeroes.substr(0, 4000)))
        << way.name;
    EXPECT_TRUE(sent(kAt, zeroes.substr(0, 4095)) ==
                DataChunk(true, kAt, zeroes.substr(0, 4095)))
        << way.name;
  }
}

// Of a whole piece, as many holes as there can be: what is moved together must
// stay right.
TEST(Holes, OfEveryOtherBlockLeaveTheDataBetweenAsItIs) {
  constexpr uint32_t kBlock = 4096;
  Bytes bytes(kPieceBytes, '\0');
  Bytes wanted;
  for (uint32_t at = 0; at < kPieceBytes; at += 2 * kBlock) {
    const Bytes data = Pattern(at, kBlock);
    bytes.replace(at, kBlock, data);
    wanted += DataChunk(false, at, data) +
              HoleChunk(at + 2 * kBlock == kPieceBytes, at + kBlock, kBlock);
  }
  for (const Way& way : kWays) {
    Sender sender(ReplyStyle::kStructured);
    // Behind another reply, so that the buffer is nearly full.
    sender.replies.Success(Read(0));
    way.send(sender.replies, Read(kPieceBytes), 0, bytes);
    EXPECT_TRUE(sender.replies.Flush());
    EXPECT_TRUE(sender.peer.Receive() ==
                Chunk(true, nbdtest::kReplyNone, "") + wanted)
        << way.name;
  }
}

TEST(Holes, AreSpelledOutWhereAReplyIsOneChunk) {
  const Bytes zeroes(8192, '\0');
  for (const Way& way : kWays) {
    Sender simple(ReplyStyle::kSimple);
    way.send(simple.replies, Read(8192), 0, zeroes);
    simple.replies.Flush();
    EXPECT_TRUE(simple.peer.Receive() == SimpleReply(0, zeroes)) << way.name;
    Sender structured(ReplyStyle::kStructured);
    Request request = Read(8192);
    request.flags = NBD_CMD_FLAG_DF;
    way.send(structured.replies, request, 0, zeroes);
    structured.replies.Flush();
    EXPECT_TRUE(structured.peer.Receive() == DataChunk(true, 0, zeroes))
        << way.name;
  }
}

TEST(OneChunk, OfManyPiecesIsOneReply) {
  const uint64_t length = 3 * kPieceBytes + 77;
  for (const ReplyStyle style :
       {ReplyStyle::kSimple, ReplyStyle::kStructured}) {
    Sender sender(style);
    sender.replies.BeginData(Read(length));
    for (uint64_t at = 0; at < length; at += kPieceBytes) {
      AddPiece(sender.replies,
               Pattern(at, std::min<uint64_t>(kPieceBytes, length - at)));
    }
    sender.replies.EndData(Read(length));
    EXPECT_TRUE(sender.replies.Flush());
    const Bytes data = Pattern(0, length);
    const Bytes wanted = style == ReplyStyle::kSimple
                             ? SimpleReply(0, data)
                             : DataChunk(false, kOffset, data) +
                                   Chunk(true, nbdtest::kReplyNone, "");
    EXPECT_TRUE(sender.peer.Receive() == wanted);
    EXPECT_EQ(sender.statistics.bytes_read, length);
  }
}

// Sizes around those where bytes stop being copied, or the buffer has to be
// sent first.
TEST(Data, OfAnySizeFollowsWhatWasGatheredBeforeIt) {
  for (const size_t size :
       {size_t{1}, size_t{512}, size_t{32767}, size_t{32768}, size_t{32769},
        size_t{65536}, kPieceBytes - 1, kPieceBytes}) {
    Sender sender(ReplyStyle::kStructured);
    const Bytes data = Pattern(size, size);
    Bytes wanted;
    for (int i = 0; i < 3; ++i) {
      sender.replies.Success(Read(0));
      sender.replies.Data(Read(size), kOffset, {data.data(), data.size()},
                          true);
      AddData(sender.replies, Read(size), kOffset, data, false);
      wanted += Chunk(true, nbdtest::kReplyNone, "") +
                DataChunk(true, kOffset, data) +
                DataChunk(false, kOffset, data);
    }
    EXPECT_TRUE(sender.replies.Flush()) << size;
    EXPECT_TRUE(sender.peer.Receive() == wanted) << size;
  }
}

TEST(BlockStatus, OfTheMostDescriptorsFits) {
  Sender sender(ReplyStyle::kStructured);
  sender.replies.Success(Read(0));
  std::vector<StatusDescriptor> descriptors;
  Writer payload;
  payload.U32(1);
  for (uint32_t i = 0; i < kMaxDescriptors; ++i) {
    descriptors.push_back({512 * (i + 1), i % 2 * 3});
    payload.U32(512 * (i + 1)).U32(i % 2 * 3);
  }
  sender.replies.BlockStatus(Read(1), 1, descriptors);
  sender.replies.Flush();
  EXPECT_TRUE(sender.peer.Receive() ==
              Chunk(true, nbdtest::kReplyNone, "") +
                  Chunk(true, nbdtest::kReplyBlockStatus, payload.bytes()));
}

// -- Gathering

TEST(Gathering, NothingIsSentBeforeTheFlush) {
  Sender sender(ReplyStyle::kSimple);
  for (int i = 0; i < 100; ++i) sender.replies.Success(Read(0));
  EXPECT_EQ(sender.peer.writes(), 0u);
  EXPECT_TRUE(sender.replies.Flush());
  EXPECT_EQ(sender.peer.writes(), 1u);
  EXPECT_EQ(sender.peer.Receive().size(), 1600u);
}

TEST(Gathering, AFlushOfNothingWritesNothing) {
  Sender sender(ReplyStyle::kSimple);
  EXPECT_TRUE(sender.replies.Flush());
  sender.replies.Success(Read(0));
  sender.replies.Flush();
  EXPECT_TRUE(sender.replies.Flush());
  EXPECT_EQ(sender.peer.writes(), 1u);
}

TEST(Gathering, AFullBufferIsSentAndNoReplyTorn) {
  for (const ReplyStyle style :
       {ReplyStyle::kSimple, ReplyStyle::kStructured}) {
    Sender sender(style);
    Bytes wanted;
    const Bytes data = Pattern(0, 4096);
    for (int i = 0; i < 1000; ++i) {
      AddData(sender.replies, Read(4096), kOffset, data, true);
      wanted += style == ReplyStyle::kSimple ? SimpleReply(0, data)
                                             : DataChunk(true, kOffset, data);
    }
    EXPECT_TRUE(sender.replies.Flush());
    EXPECT_TRUE(sender.peer.Receive() == wanted);
    EXPECT_LT(sender.peer.writes(), 30u);
  }
}

TEST(Gathering, ReservedDataThatIsNotCommittedNeverWas) {
  Sender sender(ReplyStyle::kStructured);
  sender.replies.Success(Read(0));
  std::memset(sender.replies.ReserveData(kPieceBytes), '#', kPieceBytes);
  sender.replies.Error(Read(kPieceBytes), NBD_EIO, "");
  sender.replies.Flush();
  EXPECT_EQ(sender.peer.Receive(),
            Chunk(true, nbdtest::kReplyNone, "") +
                Chunk(true, nbdtest::kReplyError,
                      Writer().U32(nbdtest::kNbdEio).U16(0).bytes()));
  EXPECT_EQ(sender.statistics.bytes_read, 0u);
}

// -- Counting

TEST(Statistics, CountBytesReadAndErrorReplies) {
  Sender sender(ReplyStyle::kStructured);
  const Bytes data = Pattern(0, 100000);
  AddData(sender.replies, Read(100), kOffset, data.substr(0, 100), true);
  EXPECT_EQ(sender.statistics.bytes_read, 100u);
  sender.replies.Data(Read(1000), kOffset, {data.data(), 1000}, true);
  EXPECT_EQ(sender.statistics.bytes_read, 1100u);
  sender.replies.Data(Read(100000), kOffset, {data.data(), 100000}, true);
  EXPECT_EQ(sender.statistics.bytes_read, 101100u);
  const Bytes zeroes(4096, '\0');
  sender.replies.Data(Read(4096), 0, {zeroes.data(), zeroes.size()}, true);
  EXPECT_EQ(sender.statistics.bytes_read, 105196u);
  sender.replies.Error(Read(1), NBD_EINVAL, "");
  sender.replies.ErrorAt(Read(1), NBD_EINVAL, "", kOffset);
  sender.replies.Success(Read(0));
  EXPECT_EQ(sender.statistics.errors, 2u);
  EXPECT_EQ(sender.statistics.bytes_read, 105196u);
  EXPECT_EQ(sender.statistics.bytes_written, 0u);
  EXPECT_EQ(sender.statistics.requests, 0u);
}

// -- A peer that is gone

// Only a held failure outlives its caller's sentence.
TEST(AHeldFailure, HasItsOwnSentence) {
  MemoryPeer peer;
  Channel channel{std::make_unique<MemoryStream>(peer), -1};
  Statistics statistics;
  Pacer pacer({.bytes = {.writes = {.per_second = 1}, .given = 2}});
  ReplySender replies(channel, ReplyStyle::kStructured, statistics, &pacer);
  Request write = Read(1000);
  write.type = NBD_CMD_WRITE;
  for (const bool has_offset : {false, true}) {
    std::string sentence = "the disk is full";
    if (has_offset) {
      replies.ErrorAt(write, NBD_ENOSPC, sentence, kOffset + 512);
    } else {
      replies.Error(write, NBD_ENOSPC, sentence);
    }
    sentence.assign(sentence.size(), '#');
  }
  EXPECT_EQ(statistics.errors, 2u);
  EXPECT_TRUE(replies.Flush());
  EXPECT_EQ(peer.Receive(), "") << "the pacer has them";
  while (const std::optional<Pacer::Held> held = pacer.TakeAny()) {
    replies.Send(*held);
  }
  EXPECT_TRUE(replies.Flush());
  Writer error;
  error.U32(nbdtest::kNbdEnospc).U16(16).Raw("the disk is full");
  const Bytes without = error.bytes();
  EXPECT_EQ(peer.Receive(), Chunk(true, nbdtest::kReplyError, without) +
                                Chunk(true, nbdtest::kReplyErrorOffset,
                                      error.U64(kOffset + 512).bytes()));
}

TEST(APeerThatIsGone, IsToldByFlushAndByOk) {
  Sender sender(ReplyStyle::kSimple);
  EXPECT_TRUE(sender.replies.ok());
  sender.peer.FailWrites({-EPIPE});
  sender.replies.Success(Read(0));
  EXPECT_TRUE(sender.replies.ok());
  EXPECT_FALSE(sender.replies.Flush());
  EXPECT_FALSE(sender.replies.ok());
}

TEST(APeerThatIsGone, MakesEverythingDoNothing) {
  Sender sender(ReplyStyle::kStructured);
  sender.peer.FailWrites({-ECONNRESET});
  const Bytes data = Pattern(0, kPieceBytes);
  sender.replies.Data(Read(kPieceBytes), kOffset, {data.data(), data.size()},
                      true);
  EXPECT_FALSE(sender.replies.ok());
  // More than the buffer holds.
  for (int i = 0; i < 5; ++i) {
    sender.replies.Data(Read(kPieceBytes), kOffset, {data.data(), data.size()},
                        true);
    AddData(sender.replies, Read(kPieceBytes), kOffset, data, true);
    sender.replies.BeginData(Read(kPieceBytes));
    AddPiece(sender.replies, data);
    sender.replies.EndData(Read(kPieceBytes));
    sender.replies.Error(Read(1), NBD_EIO, "sentence");
  }
  EXPECT_FALSE(sender.replies.Flush());
  EXPECT_EQ(sender.peer.Receive(), "");
  EXPECT_EQ(sender.peer.writes(), 1u);
}

}  // namespace
}  // namespace nbdinetd
