#include "protocol/reply.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/limits.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Writer;

constexpr uint64_t kCookie = 0xc00c1e0000c0ffee;
constexpr uint64_t kOffset = 0x0102030405060708;

// What is left of a read from kSentOffset on.
constexpr uint64_t kSentOffset = 0x1112131415161718;
constexpr Request kRequest = {.cookie = kCookie, .sent_offset = kSentOffset};

const ReplyEncoder kSimpleEncoder(ReplyStyle::kSimple);
const ReplyEncoder kStructuredEncoder(ReplyStyle::kStructured);
const ReplyEncoder kExtendedEncoder(ReplyStyle::kExtended);

// What an Encode function wrote. The buffer around it is checked to be
// untouched.
Bytes Encoded(const std::function<char*(char*)>& encode, size_t bound) {
  constexpr size_t kMargin = 64;
  Bytes buffer(kMargin + bound + kMargin, '#');
  char* begin = buffer.data() + kMargin;
  const char* end = encode(begin);
  EXPECT_GE(end, begin);
  EXPECT_LE(end, begin + bound);
  const auto size = static_cast<size_t>(end - begin);
  EXPECT_EQ(buffer.substr(0, kMargin), Bytes(kMargin, '#'));
  const size_t behind = kMargin + size;
  EXPECT_EQ(buffer.substr(behind), Bytes(buffer.size() - behind, '#'));
  return buffer.substr(kMargin, size);
}

Bytes Encoded(const std::function<char*(char*)>& encode) {
  return Encoded(encode, kMaxReplyBytes);
}

Bytes SimpleReply(uint32_t error) {
  return Writer()
      .U32(nbdtest::kSimpleReplyMagic)
      .U32(error)
      .U64(kCookie)
      .bytes();
}

// A whole structured reply chunk; a chunk's header alone is where its payload
// is cut off.
Bytes Chunk(bool done, uint16_t type, uint32_t length, const Bytes& payload) {
  return Writer()
      .U32(nbdtest::kStructuredReplyMagic)
      .U16(done ? nbdtest::kReplyFlagDone : 0)
      .U16(type)
      .U64(kCookie)
      .U32(length)
      .Raw(payload)
      .bytes();
}

// The same with an extended header.
Bytes ExtendedChunk(bool done, uint16_t type, uint64_t length,
                    const Bytes& payload) {
  return Writer()
      .U32(nbdtest::kExtendedReplyMagic)
      .U16(done ? nbdtest::kReplyFlagDone : 0)
      .U16(type)
      .U64(kCookie)
      .U64(kSentOffset)
      .U64(length)
      .Raw(payload)
      .bytes();
}

// -- Style

TEST(SimpleStyle, NeverFragmentsAndCannotReportALateError) {
  Request request;
  EXPECT_FALSE(kSimpleEncoder.fragments(request));
  EXPECT_FALSE(kSimpleEncoder.reports_late_errors());
}

TEST(StructuredStyle, FragmentsUnlessTheClientForbidsIt) {
  Request request;
  EXPECT_TRUE(kStructuredEncoder.fragments(request));
  request.flags = nbdtest::kCmdFlagFua;
  EXPECT_TRUE(kStructuredEncoder.fragments(request));
  request.flags = nbdtest::kCmdFlagDf;
  EXPECT_FALSE(kStructuredEncoder.fragments(request));
  EXPECT_TRUE(kStructuredEncoder.reports_late_errors());
}

TEST(ExtendedStyle, FragmentsUnlessTheClientForbidsIt) {
  Request request;
  EXPECT_TRUE(kExtendedEncoder.fragments(request));
  request.flags = nbdtest::kCmdFlagDf;
  EXPECT_FALSE(kExtendedEncoder.fragments(request));
  EXPECT_TRUE(kExtendedEncoder.reports_late_errors());
}

// -- Extended headers

TEST(ExtendedHeaders, AreThoseOfChunksWithOffsetAndALengthOf64Bits) {
  const auto data = [&](char* out) {
    return kExtendedEncoder.EncodeDataHeader(out, kRequest, kOffset, 4096,
                                             false);
  };
  EXPECT_EQ(Encoded(data),
            ExtendedChunk(false, nbdtest::kReplyOffsetData, 8 + 4096,
                          Writer().U64(kOffset).bytes()));
  EXPECT_EQ(Encoded(data).size(), kExtendedEncoder.data_header_bytes());
  EXPECT_EQ(Encoded([&](char* out) {
              return kExtendedEncoder.EncodeHole(out, kRequest, kOffset, 65536,
                                                 true);
            }),
            ExtendedChunk(true, nbdtest::kReplyOffsetHole, 12,
                          Writer().U64(kOffset).U32(65536).bytes()));
  const Bytes none = ExtendedChunk(true, nbdtest::kReplyNone, 0, "");
  EXPECT_EQ(Encoded([&](char* out) {
              return kExtendedEncoder.EncodeDone(out, kRequest);
            }),
            none);
  EXPECT_EQ(Encoded([&](char* out) {
              return kExtendedEncoder.EncodeSuccess(out, kRequest);
            }),
            none);
}

TEST(ExtendedHeaders, AreBeforeErrorsToo) {
  const Bytes sentence(kMaxSentenceBytes + 1, 's');
  const Bytes cut = sentence.substr(0, kMaxSentenceBytes);
  const auto length = static_cast<uint16_t>(cut.size());
  const Bytes error =
      Writer().U32(nbdtest::kNbdEio).U16(length).Raw(cut).bytes();
  EXPECT_EQ(Encoded([&](char* out) {
              return kExtendedEncoder.EncodeError(out, kRequest, NBD_EIO,
                                                  sentence);
            }),
            ExtendedChunk(true, nbdtest::kReplyError, 6u + length, error));
  EXPECT_EQ(Encoded([&](char* out) {
              return kExtendedEncoder.EncodeErrorAt(out, kRequest, NBD_EIO,
                                                    sentence, kOffset);
            }),
            ExtendedChunk(true, nbdtest::kReplyErrorOffset, 14u + length,
                          error + Writer().U64(kOffset).bytes()));
}

TEST(ExtendedHeaders, ComeWithABlockStatusOf64Bits) {
  const StatusDescriptor descriptors[] = {
      {uint64_t{1} << 44, 3}, {1, 0}, {UINT64_MAX, 2}};
  for (size_t count = 1; count <= 3; ++count) {
    Writer payload;
    payload.U32(9).U32(static_cast<uint32_t>(count));
    for (size_t i = 0; i < count; ++i) {
      payload.U64(descriptors[i].length).U64(descriptors[i].status);
    }
    const Bytes chunk = Encoded(
        [&](char* out) {
          return kExtendedEncoder.EncodeBlockStatus(
              out, kRequest, 9,
              absl::MakeConstSpan(descriptors).subspan(0, count));
        },
        kExtendedEncoder.block_status_bytes(count));
    EXPECT_EQ(chunk, ExtendedChunk(true, nbdtest::kReplyBlockStatusExt,
                                   8 + 16 * count, payload.bytes()));
    EXPECT_EQ(chunk.size(), kExtendedEncoder.block_status_bytes(count));
  }
}

// -- Data

TEST(DataHeader, IsASimpleReplyWithoutError) {
  for (const bool done : {false, true}) {
    const Bytes header = Encoded([&](char* out) {
      return kSimpleEncoder.EncodeDataHeader(out, kRequest, kOffset, 4096,
                                             done);
    });
    EXPECT_EQ(header, SimpleReply(nbdtest::kNbdOk));
    EXPECT_EQ(header.size(), kSimpleEncoder.data_header_bytes());
  }
}

TEST(DataHeader, IsAnOffsetDataChunkWhoseLengthCountsTheOffset) {
  for (const bool done : {false, true}) {
    const Bytes header = Encoded([&](char* out) {
      return kStructuredEncoder.EncodeDataHeader(out, kRequest, kOffset, 4096,
                                                 done);
    });
    EXPECT_EQ(header, Chunk(done, nbdtest::kReplyOffsetData, 8 + 4096,
                            Writer().U64(kOffset).bytes()));
    EXPECT_EQ(header.size(), kStructuredEncoder.data_header_bytes());
  }
}

TEST(DataHeader, CanAnnounceTheGreatestPayload) {
  const Bytes header = Encoded([&](char* out) {
    return kStructuredEncoder.EncodeDataHeader(out, kRequest, 0,
                                               nbdtest::kMaxPayload, true);
  });
  EXPECT_EQ(header, Chunk(true, nbdtest::kReplyOffsetData,
                          8 + nbdtest::kMaxPayload, Writer().U64(0).bytes()));
}

TEST(Hole, IsOffsetAndSize) {
  for (const bool done : {false, true}) {
    EXPECT_EQ(Encoded([&](char* out) {
                return kStructuredEncoder.EncodeHole(out, kRequest, kOffset,
                                                     65536, done);
              }),
              Chunk(done, nbdtest::kReplyOffsetHole, 12,
                    Writer().U64(kOffset).U32(65536).bytes()));
  }
}

// -- Success

TEST(Done, IsAnEmptyLastChunk) {
  EXPECT_EQ(Encoded([&](char* out) {
              return kStructuredEncoder.EncodeDone(out, kRequest);
            }),
            Chunk(true, nbdtest::kReplyNone, 0, ""));
}

TEST(Done, IsNothingInASimpleReply) {
  EXPECT_EQ(Encoded([&](char* out) {
              return kSimpleEncoder.EncodeDone(out, kRequest);
            }),
            "");
}

TEST(Success, IsAReplyWithoutPayload) {
  EXPECT_EQ(Encoded([&](char* out) {
              return kSimpleEncoder.EncodeSuccess(out, kRequest);
            }),
            SimpleReply(nbdtest::kNbdOk));
  EXPECT_EQ(Encoded([&](char* out) {
              return kStructuredEncoder.EncodeSuccess(out, kRequest);
            }),
            Chunk(true, nbdtest::kReplyNone, 0, ""));
}

// -- Errors

TEST(Error, HasNoSentenceInASimpleReply) {
  EXPECT_EQ(Encoded([&](char* out) {
              return kSimpleEncoder.EncodeError(out, kRequest, NBD_ENOSPC,
                                                "the disk is full");
            }),
            SimpleReply(nbdtest::kNbdEnospc));
  EXPECT_EQ(Encoded([&](char* out) {
              return kSimpleEncoder.EncodeErrorAt(out, kRequest, NBD_EIO,
                                                  "bad block", kOffset);
            }),
            SimpleReply(nbdtest::kNbdEio));
}

TEST(Error, IsALastChunkWithItsSentence) {
  const Bytes sentence = "the disk is full";
  EXPECT_EQ(
      Encoded([&](char* out) {
        return kStructuredEncoder.EncodeError(out, kRequest, NBD_ENOSPC,
                                              sentence);
      }),
      Chunk(true, nbdtest::kReplyError, 6 + 16,
            Writer().U32(nbdtest::kNbdEnospc).U16(16).Raw(sentence).bytes()));
}

TEST(Error, MayHaveNoSentence) {
  EXPECT_EQ(Encoded([&](char* out) {
              return kStructuredEncoder.EncodeError(out, kRequest, NBD_EINVAL,
                                                    "");
            }),
            Chunk(true, nbdtest::kReplyError, 6,
                  Writer().U32(nbdtest::kNbdEinval).U16(0).bytes()));
}

TEST(Error, WithAnOffsetHasItBehindTheSentence) {
  EXPECT_EQ(Encoded([&](char* out) {
              return kStructuredEncoder.EncodeErrorAt(out, kRequest, NBD_EIO,
                                                      "bad", kOffset);
            }),
            Chunk(true, nbdtest::kReplyErrorOffset, 14 + 3,
                  Writer()
                      .U32(nbdtest::kNbdEio)
                      .U16(3)
                      .Raw("bad")
                      .U64(kOffset)
                      .bytes()));
}

TEST(Error, ALongSentenceIsCutAndTheLengthsStillAgree) {
  constexpr size_t kMax = kMaxSentenceBytes;
  for (const size_t size :
       {kMax - 1, kMax, kMax + 1, size_t{5000}, size_t{100000}}) {
    const Bytes sentence(size, 's');
    const Bytes cut = sentence.substr(0, kMax);
    const auto length = static_cast<uint32_t>(cut.size());
    EXPECT_EQ(Encoded([&](char* out) {
                return kStructuredEncoder.EncodeError(out, kRequest, NBD_EIO,
                                                      sentence);
              }),
              Chunk(true, nbdtest::kReplyError, 6 + length,
                    Writer()
                        .U32(nbdtest::kNbdEio)
                        .U16(static_cast<uint16_t>(length))
                        .Raw(cut)
                        .bytes()));
    EXPECT_EQ(Encoded([&](char* out) {
                return kStructuredEncoder.EncodeErrorAt(out, kRequest, NBD_EIO,
                                                        sentence, kOffset);
              }),
              Chunk(true, nbdtest::kReplyErrorOffset, 14 + length,
                    Writer()
                        .U32(nbdtest::kNbdEio)
                        .U16(static_cast<uint16_t>(length))
                        .Raw(cut)
                        .U64(kOffset)
                        .bytes()));
  }
  EXPECT_LE(kMax, nbdtest::kMaxString);
}

// -- Block status

TEST(BlockStatus, IsTheContextAndItsDescriptors) {
  const std::vector<StatusDescriptor> descriptors = {
      {65536, 0},
      {4096, NBD_STATE_HOLE | NBD_STATE_ZERO},
      {0xffff0000, NBD_STATE_ZERO}};
  for (size_t count = 1; count <= descriptors.size(); ++count) {
    Writer payload;
    payload.U32(9);
    for (size_t i = 0; i < count; ++i) {
      payload.U32(static_cast<uint32_t>(descriptors[i].length))
          .U32(descriptors[i].status);
    }
    const Bytes chunk = Encoded(
        [&](char* out) {
          return kStructuredEncoder.EncodeBlockStatus(
              out, kRequest, 9,
              absl::MakeConstSpan(descriptors).subspan(0, count));
        },
        kStructuredEncoder.block_status_bytes(count));
    EXPECT_EQ(chunk,
              Chunk(true, nbdtest::kReplyBlockStatus,
                    static_cast<uint32_t>(4 + 8 * count), payload.bytes()));
    EXPECT_EQ(chunk.size(), kStructuredEncoder.block_status_bytes(count));
  }
}

TEST(BlockStatus, HasTheStatusFlagsOfBaseAllocation) {
  EXPECT_EQ(NBD_STATE_HOLE, nbdtest::kStateHole);
  EXPECT_EQ(NBD_STATE_ZERO, nbdtest::kStateZero);
}

// -- Cookies

TEST(Cookie, ComesBackAsItCame) {
  for (const uint64_t cookie :
       {uint64_t{0}, uint64_t{1}, UINT64_MAX, uint64_t{1} << 63}) {
    for (const ReplyEncoder& encoder :
         {kSimpleEncoder, kStructuredEncoder, kExtendedEncoder}) {
      const Bytes reply = Encoded([&](char* out) {
        return encoder.EncodeSuccess(out, {.cookie = cookie});
      });
      EXPECT_EQ(reply.substr(8, 8), Writer().U64(cookie).bytes());
    }
  }
}

}  // namespace
}  // namespace nbdinetd
