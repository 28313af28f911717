// Extended headers, by the branch extension-ext-header of the specification:
// the real program over a socket pair. What all styles have in common is in
// transmission_test.cc; here is what only extended headers have.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint64_t kImageSize = 4 << 20;
constexpr uint32_t kPage = 4096;
constexpr uint64_t kTiB = uint64_t{1} << 40;
// As large as a file can be on ext4 with blocks of 4 KiB, in multiples of 1
// MiB.
constexpr uint64_t kHugeSize = 16 * kTiB - (1 << 20);

const std::vector<std::string> kAllocation = {"base:allocation"};

class ExtendedHeaders : public testing::Test {
 protected:
  Peer& Open(std::vector<std::string> arguments = {}) {
    arguments.push_back(image_.path());
    session_.emplace(std::move(arguments));
    peer().Open();
    return peer();
  }
  Peer& Serve(const TempImage& image, bool context = true) {
    session_.emplace(std::vector<std::string>{image.path()});
    peer().EnterTransmission(Style::kExtended, context);
    return peer();
  }
  Peer& Start(bool context = true) { return Serve(image_, context); }

  Peer& peer() { return session_->peer(); }
  Session& session() { return *session_; }
  const TempImage& image() const { return image_; }

  Reply Do(const Request& request, std::string_view payload = {}) {
    return peer().Transact(request, payload);
  }
  // The stream is still in step.
  void ExpectAlive() {
    const Reply reply = Do({.type = kCmdRead, .offset = 512, .length = 1024});
    ASSERT_TRUE(HasError(reply, kNbdOk));
    ASSERT_TRUE(SameBytes(reply.data, Pattern(512, 1024)));
  }
  void ExpectHardDisconnect() {
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol));
  }

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  std::optional<Session> session_;
};

// -- NBD_OPT_EXTENDED_HEADERS

TEST_F(ExtendedHeaders, AreAcknowledgedWithStructuredRepliesAndWithout) {
  for (const bool structured : {false, true}) {
    Open();
    if (structured) peer().NegotiateStructuredReplies();
    peer().NegotiateExtendedHeaders();
    peer().Go();
    ExpectAlive();
    session().End();
    EXPECT_NE(session().WaitForExit().standard_error.find("extended replies"),
              std::string::npos);
  }
}

TEST_F(ExtendedHeaders, WithDataAreErrInvalidAndNotNegotiated) {
  Open();
  EXPECT_TRUE(
      HasType(peer().Negotiate(kOptExtendedHeaders, "x"), kRepErrInvalid));
  // Peer takes an extended reply for a violation now.
  EXPECT_EQ(peer().Go().flags & kSendDf, 0);
  ExpectAlive();
  session().End();
}

TEST_F(ExtendedHeaders, ASecondTimeAreErrInvalidAndStay) {
  Open();
  peer().NegotiateExtendedHeaders();
  EXPECT_TRUE(HasType(peer().Negotiate(kOptExtendedHeaders), kRepErrInvalid));
  peer().Go();
  ExpectAlive();
  session().End();
}

TEST_F(ExtendedHeaders, TakePrecedenceOverStructuredReplies) {
  Open();
  peer().NegotiateExtendedHeaders();
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(
        HasType(peer().Negotiate(kOptStructuredReply), kRepErrExtHeaderReqd));
  }
  peer().Go();
  ExpectAlive();
  session().End();
}

TEST_F(ExtendedHeaders, MakeExportNameAHardDisconnect) {
  Open();
  peer().NegotiateExtendedHeaders();
  peer().SendOption(kOptExportName);
  ExpectHardDisconnect();
}

TEST_F(ExtendedHeaders, LetContextsBeListedAndSelected) {
  Open();
  peer().NegotiateExtendedHeaders();
  for (const uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    const OptionAnswer answer =
        peer().Negotiate(option, MetaContextPayload("", kAllocation));
    EXPECT_TRUE(HasType(answer, kRepAck));
    EXPECT_EQ(ParseMetaContexts(answer).size(), 1u);
  }
  peer().Go();
  EXPECT_TRUE(HasError(Do({.type = kCmdBlockStatus, .length = kPage}), kNbdOk));
  session().End();
}

TEST_F(ExtendedHeaders, LeaveTheSelectionOfContextsAlone) {
  Open();
  peer().NegotiateStructuredReplies();
  peer().SelectAllocationContext();
  peer().NegotiateExtendedHeaders();
  peer().Go();
  EXPECT_TRUE(HasError(Do({.type = kCmdBlockStatus, .length = kPage}), kNbdOk));
  session().End();
}

TEST_F(ExtendedHeaders, AreNeverRequired) {
  Open();
  peer().NegotiateStructuredReplies();
  peer().SelectAllocationContext();
  peer().Go();
  ExpectAlive();
  session().End();
}

TEST_F(ExtendedHeaders, BlockStatusPayloadsAreOfferedOnlyWithAContext) {
  for (const Style style : {Style::kStructured, Style::kExtended}) {
    for (const bool context : {false, true}) {
      Open();
      if (style == Style::kStructured) {
        peer().NegotiateStructuredReplies();
      } else {
        peer().NegotiateExtendedHeaders();
      }
      if (context) peer().SelectAllocationContext();
      const bool wanted = style == Style::kExtended && context;
      const ExportInfo info = ParseInfo(
          peer().Negotiate(kOptInfo, InfoPayload("", std::vector<uint16_t>{})));
      EXPECT_EQ((info.flags & kBlockStatusPayload) != 0, wanted);
      EXPECT_EQ(peer().Go(), info);
      EXPECT_NE(info.flags & kSendDf, 0);
      session().End();
    }
  }
}

// -- Bytes

// Written out by hand, header by header.
TEST_F(ExtendedHeaders, AreTheBytesOfTheSpecification) {
  Open();
  peer().Send(Bytes("IHAVEOPT\0\0\0\x0b\0\0\0\0", 16));
  EXPECT_TRUE(
      SameBytes(peer().Receive(20), Bytes("\0\x03\xe8\x89\x04\x55\x65\xa9"
                                          "\0\0\0\x0b\0\0\0\x01\0\0\0\0",
                                          20)));
  peer().Go();
  // A write of "abc" at 5, and a read of it.
  const Bytes cookie = "COOKIE!!";
  const Bytes offset("\0\0\0\0\0\0\0\x05", 8);
  const Bytes length("\0\0\0\0\0\0\0\x03", 8);
  peer().Send(Bytes("\x21\xe4\x1c\x71\0\x20\0\x01", 8) + cookie + offset +
              length + "abc");
  const Bytes success =
      Bytes("\x6e\x8a\x27\x8c\0\x01\0\0", 8) + cookie + offset + Bytes(8, '\0');
  EXPECT_TRUE(SameBytes(peer().Receive(32), success));
  peer().Send(Bytes("\x21\xe4\x1c\x71\0\0\0\0", 8) + cookie + offset + length);
  EXPECT_TRUE(SameBytes(peer().Receive(32 + 8 + 3),
                        Bytes("\x6e\x8a\x27\x8c\0\x01\0\x01", 8) + cookie +
                            offset + Bytes("\0\0\0\0\0\0\0\x0b", 8) + offset +
                            "abc"));
  // An unknown command: the error, the length of its sentence, the sentence.
  peer().Send(Bytes("\x21\xe4\x1c\x71\0\0\0\x4d", 8) + cookie + offset +
              length);
  EXPECT_TRUE(
      SameBytes(peer().Receive(24),
                Bytes("\x6e\x8a\x27\x8c\0\x01\x80\x01", 8) + cookie + offset));
  const Bytes fields = peer().Receive(14);
  Reader error(fields);
  const uint64_t payload = error.U64();
  EXPECT_EQ(error.U32(), kNbdEinval);
  EXPECT_EQ(error.U16(), payload - 6);
  peer().Receive(payload - 6);
  peer().Send(Bytes("\x21\xe4\x1c\x71\0\0\0\x02", 8) + Bytes(24, '\0'));
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

TEST_F(ExtendedHeaders, ArriveByteByByteToo) {
  Start();
  peer().set_byte_by_byte(true);
  ExpectAlive();
  const Bytes payload = StatusPayload(kPage, std::vector<uint32_t>{1});
  EXPECT_TRUE(HasError(Do({.type = kCmdBlockStatus,
                           .flags = kCmdFlagPayloadLen,
                           .length = payload.size()},
                          payload),
                       kNbdOk));
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWrite, .length = 100}, Pattern(0, 100, 4)), kNbdOk));
  EXPECT_TRUE(SameBytes(image().Read(0, 100), Pattern(0, 100, 4)));
  session().End();
}

TEST_F(ExtendedHeaders, ACompactRequestIsAHardDisconnect) {
  Start();
  ExpectAlive();
  // So long that the magic is looked at.
  peer().Send(RequestMessage({.type = kCmdRead, .length = 512, .cookie = 1}) +
              Bytes(4, '\0'));
  ExpectHardDisconnect();
}

// Peer compares the offset of each header with the request's.
TEST_F(ExtendedHeaders, HaveTheOffsetOfTheRequestInEachChunk) {
  const TempImage large = TempImage::Sparse(8 << 20);
  for (const uint64_t offset : {1 << 20, 3 << 20, 6 << 20}) {
    large.Write(offset, Pattern(offset, 700000));
  }
  large.DropCache();
  Serve(large);
  // The beginning is in the page cache, and the rest isn't.
  Do({.type = kCmdRead, .offset = 12345, .length = 1 << 20});
  const Reply reply =
      Do({.type = kCmdRead, .offset = 12345, .length = 7 << 20});
  EXPECT_TRUE(HasError(reply, kNbdOk));
  EXPECT_GT(reply.chunks, 1);
  EXPECT_TRUE(SameBytes(reply.data, large.Read(12345, 7 << 20)));
  large.Truncate(5 << 20);
  const Reply failed =
      Do({.type = kCmdRead, .offset = 12345, .length = 7 << 20});
  EXPECT_TRUE(HasError(failed, kNbdEio));
  session().End();
}

// -- NBD_CMD_FLAG_PAYLOAD_LEN

// A client "MUST" set it. QEMU's doesn't (10.0), and sends the payload.
TEST_F(ExtendedHeaders, AWriteWithoutTheFlagIsAWriteWithItsPayload) {
  Start();
  Bytes batch;
  for (uint64_t at = 0; at < 4; ++at) {
    batch += peer().Prepare({.type = kCmdWrite,
                             .offset = at * 70000,
                             .length = 70000,
                             .flags_as_they_are = true},
                            Pattern(at, 70000, 6));
  }
  peer().Send(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    EXPECT_TRUE(HasError(reply, kNbdOk)) << cookie;
  }
  for (uint64_t at = 0; at < 4; ++at) {
    EXPECT_TRUE(
        SameBytes(image().Read(at * 70000, 70000), Pattern(at, 70000, 6)));
  }
  session().End();
}

TEST_F(ExtendedHeaders, APayloadThatTheCommandDoesNotHaveIsConsumedAndEinval) {
  Start();
  for (const uint16_t type : {kCmdRead, kCmdFlush, kCmdTrim, kCmdCache,
                              kCmdWriteZeroes, kCmdBlockStatus, uint16_t{77}}) {
    for (const size_t size : {1u, 4097u, 3u << 20, kMaxPayload}) {
      if (size == kMaxPayload && type != kCmdTrim) continue;
      // What is not consumed is taken for requests.
      Bytes payload;
      const Bytes trap = ExtendedRequestMessage(
          {.type = kCmdWriteZeroes, .length = kImageSize, .cookie = 666});
      while (payload.size() < size) payload += trap;
      payload.resize(size);
      EXPECT_TRUE(HasError(
          Do({.type = type, .flags = kCmdFlagPayloadLen, .length = size},
             payload),
          kNbdEinval))
          << type << " with " << size;
      ExpectAlive();
    }
  }
  // A payload of no bytes is one, too, which the specification doesn't foresee.
  for (const uint16_t type : {kCmdRead, kCmdFlush, kCmdTrim, kCmdCache,
                              kCmdWriteZeroes, kCmdBlockStatus}) {
    EXPECT_TRUE(
        HasError(Do({.type = type, .flags = kCmdFlagPayloadLen}), kNbdEinval))
        << type;
  }
  EXPECT_TRUE(HasError(Do({.type = kCmdWrite}), kNbdOk));
  ExpectAlive();
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize)));
  session().End();
}

TEST_F(ExtendedHeaders, APayloadBeyondTheMaximumIsAHardDisconnect) {
  for (const uint16_t type : {kCmdWrite, kCmdTrim, kCmdBlockStatus}) {
    for (const uint64_t length :
         {uint64_t{kMaxPayload} + 1, uint64_t{1} << 32, ~uint64_t{0}}) {
      Start();
      ExpectAlive();
      // A write has a payload without the flag, too.
      const bool flag = type != kCmdWrite || length % 2 == 0;
      peer().Send(ExtendedRequestMessage(
          {.type = type,
           .flags = flag ? kCmdFlagPayloadLen : uint16_t{0},
           .length = length,
           .cookie = 1}));
      ExpectHardDisconnect();
    }
  }
}

TEST_F(ExtendedHeaders, TheGreatestPayloadIsWritten) {
  const TempImage large = TempImage::Sparse(kMaxPayload + kPage);
  Serve(large);
  const Bytes data = Pattern(0, kMaxPayload);
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWrite, .offset = 7, .length = data.size()}, data),
      kNbdOk));
  EXPECT_TRUE(SameBytes(large.Read(7, data.size()), data));
  session().End();
}

// -- NBD_CMD_BLOCK_STATUS

class BlockStatusPayload : public ExtendedHeaders {
 protected:
  Reply Status(const Bytes& payload, uint64_t offset = 0, uint16_t flags = 0) {
    return Do({.type = kCmdBlockStatus,
               .flags = static_cast<uint16_t>(flags | kCmdFlagPayloadLen),
               .offset = offset,
               .length = payload.size()},
              payload);
  }
  static Bytes For(uint64_t length, const std::vector<uint32_t>& ids) {
    return StatusPayload(length, ids);
  }
};

TEST_F(BlockStatusPayload, LimitsTheReplyToTheContextsInIt) {
  const TempImage sparse = TempImage::Sparse(kImageSize);
  sparse.Write(1 << 20, Pattern(0, 1 << 20));
  Serve(sparse);
  const Reply plain =
      Do({.type = kCmdBlockStatus, .offset = kPage, .length = 3 << 20});
  const uint32_t id = plain.context_id;
  const Reply reply = Status(For(3 << 20, {id}), kPage);
  ASSERT_TRUE(HasError(reply, kNbdOk));
  ASSERT_EQ(reply.extents.size(), plain.extents.size());
  for (size_t i = 0; i < reply.extents.size(); ++i) {
    EXPECT_EQ(reply.extents[i].length, plain.extents[i].length);
    EXPECT_EQ(reply.extents[i].flags, plain.extents[i].flags);
  }
  const Reply one = Status(For(4096, {id}), kPage, kCmdFlagReqOne);
  ASSERT_TRUE(HasError(one, kNbdOk));
  EXPECT_EQ(one.extents.size(), 1u);
  EXPECT_LE(one.extents[0].length, 4096u);
  session().End();
}

TEST_F(BlockStatusPayload, OfAWrongFormIsConsumedAndEinval) {
  Start();
  const uint32_t id = Do({.type = kCmdBlockStatus, .length = kPage}).context_id;
  const Bytes good = For(kPage, {id});
  const Bytes wrong[] = {
      Bytes(1, '\0'),            // shorter than its effect length
      good.substr(0, 8),         // no context
      good.substr(0, 11),        // half a context
      good + Bytes(1, '\0'),     // one and a bit
      For(kPage, {id, id}),      // twice the same
      For(kPage, {id, id + 1}),  // one that is unknown beside it
      For(kPage, {id + 1}),      // one that is unknown
      For(kPage, {0}),           // the reserved one
      For(kPage, std::vector<uint32_t>(100000, id)),
      For(0, {id}),               // nothing
      For(kImageSize + 1, {id}),  // beyond the end
      For(~uint64_t{0}, {id}),
  };
  for (const Bytes& payload : wrong) {
    EXPECT_TRUE(HasError(Status(payload), kNbdEinval)) << payload.size();
    ExpectAlive();
  }
  EXPECT_TRUE(HasError(Status(good), kNbdOk));
  session().End();
}

TEST_F(BlockStatusPayload, IsEinvalWhereItWasNotOffered) {
  Start(/*context=*/false);
  EXPECT_TRUE(HasError(Status(For(kPage, {1})), kNbdEinval));
  ExpectAlive();
  session().End();
}

TEST_F(BlockStatusPayload, MayBeAmongOtherRequestsInOneSend) {
  Start();
  const Bytes payload = For(kPage, {1});
  Bytes batch;
  for (int i = 0; i < 100; ++i) {
    batch += peer().Prepare({.type = kCmdBlockStatus,
                             .flags = kCmdFlagPayloadLen,
                             .length = payload.size()},
                            payload);
    batch += peer().Prepare({.type = kCmdRead, .length = 512});
    batch +=
        peer().Prepare({.type = kCmdWrite, .length = 512}, Pattern(0, 512));
  }
  peer().Send(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    EXPECT_TRUE(HasError(reply, kNbdOk)) << cookie;
  }
  session().End();
}

// -- Lengths of 64 bits

class HugeExport : public ExtendedHeaders {
 protected:
  // Holes, with some bytes here and there.
  Peer& ServeHuge() {
    for (const uint64_t offset : kDataAt) {
      huge_.Write(offset, Pattern(offset, 65536));
    }
    huge_.DropCache();
    return Serve(huge_);
  }
  const TempImage& huge() const { return huge_; }

  // Not on ext4 with kernels of 2022 to 2025, which do nothing so far out.
  static bool HolesArePunchedFarOut() {
    const TempImage image = TempImage::Sparse(kHugeSize);
    image.Write(5 * kTiB, Pattern(0, 65536));
    const int fd = open(image.path().c_str(), O_RDWR | O_CLOEXEC);
    const int result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 static_cast<off_t>(5 * kTiB), 65536);
    close(fd);
    return result == 0 && image.Read(5 * kTiB, 65536) == Bytes(65536, '\0');
  }

  static constexpr uint64_t kDataAt[] = {0, 5 * kTiB, 15 * kTiB};

 private:
  TempImage huge_ = TempImage::Sparse(kHugeSize);
};

TEST_F(HugeExport, IsToldInOneBlockStatus) {
  ServeHuge();
  const Reply reply = Do({.type = kCmdBlockStatus, .length = kHugeSize});
  ASSERT_TRUE(HasError(reply, kNbdOk));
  uint64_t at = 0;
  for (const Extent& extent : reply.extents) {
    const bool is_data = (extent.flags & kStateZero) == 0;
    EXPECT_EQ(is_data, std::find(std::begin(kDataAt), std::end(kDataAt), at) !=
                           std::end(kDataAt))
        << at;
    at += extent.length;
  }
  EXPECT_EQ(at, kHugeSize);
  EXPECT_EQ(reply.extents.size(), 6u);
  const Reply one = Do({.type = kCmdBlockStatus,
                        .flags = kCmdFlagReqOne,
                        .offset = kTiB,
                        .length = 3 * kTiB});
  ASSERT_EQ(one.extents.size(), 1u);
  EXPECT_EQ(one.extents[0].length, 3 * kTiB);
  session().End();
}

TEST_F(HugeExport, IsTrimmedZeroedAndCachedInOneRequest) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  for (const uint16_t type : {kCmdTrim, kCmdWriteZeroes}) {
    ServeHuge();
    ASSERT_TRUE(HasError(Do({.type = kCmdCache, .length = kHugeSize}), kNbdOk));
    ASSERT_TRUE(HasError(
        Do({.type = type, .flags = kCmdFlagFua, .length = kHugeSize}), kNbdOk));
    for (const uint64_t offset : kDataAt) {
      // A trim may do nothing; zeroing may not.
      const bool stays =
          type == kCmdTrim && offset != 0 && !HolesArePunchedFarOut();
      EXPECT_TRUE(
          SameBytes(huge().Read(offset, 65536),
                    stays ? Pattern(offset, 65536) : Bytes(65536, '\0')))
          << offset;
    }
    EXPECT_EQ(huge().size(), kHugeSize);
    session().End();
  }
}

// In several pieces, the flags of which are those of the request.
TEST_F(HugeExport, IsZeroedWithEachFlag) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  constexpr uint64_t kTwoPieces = (256 << 20) + (1 << 20);
  struct Row {
    uint16_t flags;
    uint64_t length;
    bool may_be_slow;
  };
  for (const Row& row :
       {Row{kCmdFlagFastZero, kHugeSize, false},
        // Not more, since all of it is allocated.
        Row{kCmdFlagNoHole, kTwoPieces, false},
        Row{static_cast<uint16_t>(kCmdFlagFastZero | kCmdFlagNoHole),
            kTwoPieces, true}}) {
    ServeHuge();
    const Reply reply =
        Do({.type = kCmdWriteZeroes, .flags = row.flags, .length = row.length});
    const bool is_slow = row.may_be_slow && reply.error == kNbdEnotsup;
    EXPECT_TRUE(is_slow || HasError(reply, kNbdOk)) << row.flags;
    EXPECT_TRUE(SameBytes(huge().Read(0, 65536),
                          is_slow ? Pattern(0, 65536) : Bytes(65536, '\0')));
    // To seek in tmpfs finds holes, where memory is only reserved.
    if (!is_slow && (row.flags & kCmdFlagNoHole) != 0) {
      EXPECT_GE(huge().AllocatedBytes(), row.length);
    }
    session().End();
  }
}

TEST_F(HugeExport, IsZeroedToTheByte) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  ServeHuge();
  ASSERT_TRUE(HasError(
      Do({.type = kCmdWriteZeroes, .offset = 100, .length = 15 * kTiB + 200}),
      kNbdOk));
  EXPECT_TRUE(
      SameBytes(huge().Read(0, 4096), Pattern(0, 100) + Bytes(3996, '\0')));
  EXPECT_TRUE(SameBytes(huge().Read(15 * kTiB, 4096),
                        Bytes(300, '\0') + Pattern(15 * kTiB + 300, 3796)));
  EXPECT_TRUE(SameBytes(huge().Read(5 * kTiB, 65536), Bytes(65536, '\0')));
  session().End();
}

TEST_F(HugeExport, RefusesWhatIsTooLongOrBeyondItsEnd) {
  ServeHuge();
  struct Row {
    uint16_t type;
    uint64_t offset;
    uint64_t length;
    uint32_t error;
  };
  constexpr uint64_t kMost = ~uint64_t{0};
  for (const Row& row :
       {Row{kCmdRead, 0, uint64_t{kLongestRequest} + 1, kNbdEoverflow},
        Row{kCmdRead, 0, uint64_t{1} << 32, kNbdEoverflow},
        Row{kCmdRead, 0, kHugeSize, kNbdEoverflow},
        Row{kCmdRead, 0, kMost, kNbdEinval},
        Row{kCmdTrim, 1, kHugeSize, kNbdEinval},
        Row{kCmdTrim, kMost, kMost, kNbdEinval},
        Row{kCmdTrim, kHugeSize - 1, kMost, kNbdEinval},
        Row{kCmdWriteZeroes, 0, kHugeSize + 1, kNbdEnospc},
        Row{kCmdWriteZeroes, kTiB, kMost - kTiB + 1, kNbdEnospc},
        Row{kCmdCache, 0, kMost, kNbdEinval},
        Row{kCmdBlockStatus, 0, kHugeSize + 1, kNbdEinval},
        Row{kCmdFlush, 0, uint64_t{1} << 32, kNbdEinval}}) {
    EXPECT_TRUE(HasError(
        Do({.type = row.type, .offset = row.offset, .length = row.length}),
        row.error))
        << row.type << " of " << row.length << " at " << row.offset;
  }
  for (const uint64_t offset : kDataAt) {
    EXPECT_TRUE(SameBytes(Do({.offset = offset, .length = 65536}).data,
                          Pattern(offset, 65536)));
  }
  session().End();
}

}  // namespace
