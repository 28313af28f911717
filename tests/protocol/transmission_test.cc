// The transmission phase of the real program: every command with every flag,
// what succeeds, what fails with which error, and that the connection goes on
// after each error. Most tests run with simple replies, with structured ones,
// and with extended headers; Peer holds the form of every reply against the
// specification. The file is long because the tables of the specification are.

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint64_t kImageSize = 4 << 20;
constexpr uint32_t kPage = 4096;

std::string StyleName(const testing::TestParamInfo<Style>& tested) {
  return NameOf(tested.param);
}

class Transmission : public testing::Test {
 protected:
  Peer& Start(Style style, std::vector<std::string> arguments = {}) {
    return Serve(image_, style, std::move(arguments));
  }
  // Serves the image; all but simple replies come with the allocation context
  // selected.
  Peer& Serve(const TempImage& image, Style style,
              std::vector<std::string> arguments = {},
              SessionSetup setup = {}) {
    arguments.push_back(image.path());
    session_.emplace(std::move(arguments), setup);
    style_ = style;
    session_->peer().EnterTransmission(style, style != Style::kSimple);
    return session_->peer();
  }
  Peer& peer() { return session_->peer(); }
  Session& session() { return *session_; }
  const TempImage& image() const { return image_; }

  // Payload for commands that have one: the bytes after an erroneous request
  // must be taken for this payload and for nothing else.
  Bytes PayloadFor(const Request& request) const {
    const bool has_payload = request.type == kCmdWrite ||
                             (style_ == Style::kExtended &&
                              (request.flags & kCmdFlagPayloadLen) != 0);
    return has_payload ? Pattern(0, request.length, 99) : Bytes();
  }
  Reply Do(const Request& request) {
    return peer().Transact(request, PayloadFor(request));
  }

  // The request fails with this error, in the style of the connection, and the
  // next request is served.
  void ExpectError(const Request& request, uint32_t error) {
    const Reply reply = Do(request);
    EXPECT_TRUE(HasError(reply, error));
    EXPECT_TRUE(reply.data.empty());
    ExpectAlive();
  }
  // A read that can't fail: the stream is still in step. At an offset that no
  // test changes.
  void ExpectAlive() {
    const Reply reply =
        Do({.type = kCmdRead, .offset = kSafeOffset, .length = 512});
    ASSERT_TRUE(HasError(reply, kNbdOk));
    ASSERT_TRUE(SameBytes(reply.data, Pattern(kSafeOffset, 512)));
  }
  static constexpr uint64_t kSafeOffset = kImageSize - 65536;

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  std::optional<Session> session_;
  Style style_ = Style::kSimple;
};

class EachStyle : public Transmission,
                  public testing::WithParamInterface<Style> {
 protected:
  Peer& StartStyle(std::vector<std::string> arguments = {}) {
    return Start(GetParam(), std::move(arguments));
  }
  // With chunks.
  bool structured() const { return GetParam() != Style::kSimple; }
};

INSTANTIATE_TEST_SUITE_P(Replies, EachStyle, testing::ValuesIn(kEachStyle),
                         StyleName);

// -- Commands that succeed

TEST_P(EachStyle, ReadReturnsTheBytesOfTheFileFromAnyOffset) {
  StartStyle();
  struct Range {
    uint64_t offset;
    uint32_t length;
  };
  constexpr Range kRanges[] = {{0, 1},
                               {0, 512},
                               {1, 1},
                               {511, 2},
                               {4095, 4097},
                               {kPage, 65536},
                               {12345, 300001},
                               {kImageSize - 1, 1},
                               {kImageSize - 4097, 4097},
                               {0, kImageSize}};
  for (const Range& range : kRanges) {
    const Reply reply =
        Do({.type = kCmdRead, .offset = range.offset, .length = range.length});
    EXPECT_TRUE(HasError(reply, kNbdOk));
    EXPECT_EQ(reply.structured, structured());
    EXPECT_TRUE(SameBytes(reply.data, Pattern(range.offset, range.length)))
        << range.length << " bytes at " << range.offset;
  }
  session().End();
}

TEST_P(EachStyle, WriteReachesTheFileAtAnyOffset) {
  StartStyle();
  struct Range {
    uint64_t offset;
    uint32_t length;
  };
  constexpr Range kRanges[] = {
      {0, 1}, {511, 2}, {kPage, kPage}, {12345, 300001}, {kImageSize - 1, 1}};
  Bytes expected = Pattern(0, kImageSize);
  for (const Range& range : kRanges) {
    const Bytes data = Pattern(range.offset, range.length, range.offset + 7);
    const Reply reply = peer().Transact(
        {.type = kCmdWrite, .offset = range.offset, .length = range.length},
        data);
    EXPECT_TRUE(HasError(reply, kNbdOk));
    expected.replace(range.offset, range.length, data);
    EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), expected));
  }
  session().End();
}

TEST_P(EachStyle, WhatWasWrittenIsReadBack) {
  StartStyle();
  const Bytes data = Pattern(0, 70000, 5);
  EXPECT_TRUE(
      HasError(peer().Transact(
                   {.type = kCmdWrite, .offset = 999, .length = 70000}, data),
               kNbdOk));
  const Reply reply = Do({.type = kCmdRead, .offset = 999, .length = 70000});
  EXPECT_TRUE(SameBytes(reply.data, data));
  session().End();
}

TEST_P(EachStyle, CommandsWithoutDataAreAnsweredInTheNegotiatedStyle) {
  StartStyle();
  for (uint16_t type :
       {kCmdFlush, kCmdTrim, kCmdCache, kCmdWriteZeroes, kCmdWrite}) {
    const uint32_t length = type == kCmdFlush ? 0 : kPage;
    const Reply reply = Do({.type = type, .length = length});
    EXPECT_TRUE(HasError(reply, kNbdOk)) << type;
    EXPECT_EQ(reply.structured, structured()) << type;
    EXPECT_EQ(reply.chunks, structured() ? 1 : 0) << type;
  }
  session().End();
}

TEST_P(EachStyle, CacheChangesNothing) {
  StartStyle();
  image().DropCache();
  EXPECT_TRUE(HasError(Do({.type = kCmdCache, .length = kImageSize}), kNbdOk));
  const Reply reply = Do({.type = kCmdRead, .length = kImageSize});
  EXPECT_TRUE(SameBytes(reply.data, Pattern(0, kImageSize)));
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize)));
  session().End();
}

TEST_P(EachStyle, TrimLeavesTheNeighboursAlone) {
  StartStyle();
  constexpr uint64_t kOffset = (1 << 20) + 100;
  constexpr uint32_t kLength = 1 << 20;
  EXPECT_TRUE(HasError(
      Do({.type = kCmdTrim, .offset = kOffset, .length = kLength}), kNbdOk));
  EXPECT_TRUE(SameBytes(image().Read(0, kOffset), Pattern(0, kOffset)));
  constexpr uint64_t kEnd = kOffset + kLength;
  EXPECT_TRUE(SameBytes(image().Read(kEnd, kImageSize - kEnd),
                        Pattern(kEnd, kImageSize - kEnd)));
  EXPECT_EQ(image().size(), kImageSize);
  session().End();
}

TEST_P(EachStyle, TrimGivesStorageBack) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  StartStyle();
  const uint64_t before = image().AllocatedBytes();
  EXPECT_TRUE(
      HasError(Do({.type = kCmdTrim, .offset = 0, .length = 2 << 20}), kNbdOk));
  EXPECT_LE(image().AllocatedBytes() + (1 << 20), before);
  session().End();
}

TEST_P(EachStyle, WriteZeroesReadsBackAsZeroesToTheByte) {
  StartStyle();
  Bytes expected = Pattern(0, kImageSize);
  constexpr uint64_t kOffset = 70001;
  constexpr uint32_t kLength = 1000003;
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWriteZeroes, .offset = kOffset, .length = kLength}),
      kNbdOk));
  expected.replace(kOffset, kLength, kLength, '\0');
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), expected));
  EXPECT_TRUE(
      SameBytes(Do({.type = kCmdRead, .length = kImageSize}).data, expected));
  session().End();
}

TEST_P(EachStyle, WriteZeroesUpToTheLastByteKeepsTheSize) {
  StartStyle();
  EXPECT_TRUE(HasError(Do({.type = kCmdWriteZeroes,
                           .offset = kImageSize - 12345,
                           .length = 12345}),
                       kNbdOk));
  EXPECT_EQ(image().size(), kImageSize);
  EXPECT_TRUE(
      SameBytes(image().Read(kImageSize - 12345, 12345), Bytes(12345, '\0')));
  session().End();
}

TEST_P(EachStyle, WriteZeroesMayBeLongerThanTheMaximumPayload) {
  const TempImage large = TempImage::Sparse(200 << 20);
  large.Write(0, Pattern(0, kPage));
  large.Write((150 << 20) - kPage, Pattern(0, 2 * kPage));
  Serve(large, GetParam());
  EXPECT_TRUE(
      HasError(Do({.type = kCmdWriteZeroes, .length = 150 << 20}), kNbdOk));
  EXPECT_TRUE(SameBytes(large.Read(0, kPage), Bytes(kPage, '\0')));
  EXPECT_TRUE(
      SameBytes(large.Read((150 << 20) - kPage, kPage), Bytes(kPage, '\0')));
  EXPECT_TRUE(SameBytes(large.Read(150 << 20, kPage), Pattern(kPage, kPage)));
  EXPECT_TRUE(HasError(Do({.type = kCmdTrim, .length = 200 << 20}), kNbdOk));
  EXPECT_TRUE(HasError(Do({.type = kCmdCache, .length = 200 << 20}), kNbdOk));
  session().End();
}

// -- Zeroes and holes

TEST_P(EachStyle, WriteZeroesPunchesAHole) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  StartStyle();
  const uint64_t before = image().AllocatedBytes();
  EXPECT_TRUE(
      HasError(Do({.type = kCmdWriteZeroes, .length = 2 << 20}), kNbdOk));
  EXPECT_LE(image().AllocatedBytes() + (1 << 20), before);
  EXPECT_TRUE(SameBytes(image().Read(0, 2 << 20), Bytes(2 << 20, '\0')));
  session().End();
}

TEST_P(EachStyle, WriteZeroesWithNoHoleProvisionsTheArea) {
  const TempImage sparse = TempImage::Sparse(kImageSize);
  Serve(sparse, GetParam());
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWriteZeroes, .flags = kCmdFlagNoHole, .length = 2 << 20}),
      kNbdOk));
  EXPECT_GE(sparse.AllocatedBytes(), uint64_t{2} << 20);
  EXPECT_TRUE(SameBytes(sparse.Read(0, kImageSize), Bytes(kImageSize, '\0')));
  session().End();
}

TEST_P(EachStyle, WriteZeroesWithNoHoleKeepsWhatIsAllocated) {
  StartStyle();
  const uint64_t before = image().AllocatedBytes();
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWriteZeroes, .flags = kCmdFlagNoHole, .length = 2 << 20}),
      kNbdOk));
  EXPECT_GE(image().AllocatedBytes(), before);
  EXPECT_TRUE(SameBytes(image().Read(0, 2 << 20), Bytes(2 << 20, '\0')));
  session().End();
}

TEST_P(EachStyle, AFastZeroEitherZeroesOrFailsAndChangesNothing) {
  StartStyle();
  for (uint16_t flags : {uint16_t{0}, kCmdFlagNoHole, kCmdFlagFua}) {
    for (uint64_t offset : {uint64_t{0}, uint64_t{1 << 20}, uint64_t{12345}}) {
      image().Write(0, Pattern(0, kImageSize));
      const auto fast = static_cast<uint16_t>(flags | kCmdFlagFastZero);
      const Reply reply = Do({.type = kCmdWriteZeroes,
                              .flags = fast,
                              .offset = offset,
                              .length = 1 << 20});
      Bytes expected = Pattern(0, kImageSize);
      if (reply.error == kNbdOk)
        expected.replace(offset, 1 << 20, 1 << 20, '\0');
      EXPECT_TRUE(reply.error == kNbdOk || reply.error == kNbdEnotsup)
          << ErrorName(reply.error);
      EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), expected));
      // The same without the flag never fails this way.
      EXPECT_TRUE(HasError(Do({.type = kCmdWriteZeroes,
                               .flags = flags,
                               .offset = offset,
                               .length = 1 << 20}),
                           kNbdOk));
    }
  }
  session().End();
}

TEST_P(EachStyle, AFastZeroSucceedsWhereTheFileSystemCanPunchHoles) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  StartStyle();
  EXPECT_TRUE(HasError(Do({.type = kCmdWriteZeroes,
                           .flags = kCmdFlagFastZero,
                           .length = 1 << 20}),
                       kNbdOk));
  EXPECT_TRUE(SameBytes(image().Read(0, 1 << 20), Bytes(1 << 20, '\0')));
  session().End();
}

TEST_P(EachStyle, AFastZeroWithNoHoleSucceedsWhereTheFileSystemCanZeroRanges) {
  NEED_OR_SKIP(image().CanZeroRanges(), "the file system can't zero ranges");
  StartStyle();
  const uint64_t before = image().AllocatedBytes();
  const auto flags = static_cast<uint16_t>(kCmdFlagFastZero | kCmdFlagNoHole);
  const Reply reply =
      Do({.type = kCmdWriteZeroes, .flags = flags, .length = 1 << 20});
  EXPECT_TRUE(HasError(reply, kNbdOk));
  EXPECT_GE(image().AllocatedBytes(), before);
  session().End();
}

TEST_P(EachStyle, AFastZeroIsNeverTooLong) {
  const TempImage large = TempImage::Sparse(200 << 20);
  large.Write(0, Pattern(0, kPage));
  Serve(large, GetParam());
  const Reply reply = Do({.type = kCmdWriteZeroes,
                          .flags = kCmdFlagFastZero,
                          .length = 200 << 20});
  EXPECT_TRUE(reply.error == kNbdOk || reply.error == kNbdEnotsup)
      << ErrorName(reply.error);
  const bool zeroed = reply.error == kNbdOk;
  EXPECT_TRUE(SameBytes(large.Read(0, kPage),
                        zeroed ? Bytes(kPage, '\0') : Pattern(0, kPage)));
  session().End();
}

// -- Flags

// Which bits of the command flags a command takes, beside FUA, which all of
// them take.
uint16_t ValidFlags(uint16_t type, Style style) {
  switch (type) {
    case kCmdRead:
      return style == Style::kSimple ? uint16_t{0} : kCmdFlagDf;
    case kCmdWrite:
      return style == Style::kExtended ? kCmdFlagPayloadLen : uint16_t{0};
    case kCmdWriteZeroes:
      return kCmdFlagNoHole | kCmdFlagFastZero;
    case kCmdBlockStatus:
      return kCmdFlagReqOne;
    default:
      return 0;
  }
}

struct FlagCase {
  const char* command;
  uint16_t type;
  int bit;
};

std::vector<FlagCase> AllFlagCases() {
  std::vector<FlagCase> cases;
  constexpr std::pair<const char*, uint16_t> kCommands[] = {
      {"Read", kCmdRead},
      {"Write", kCmdWrite},
      {"Flush", kCmdFlush},
      {"Trim", kCmdTrim},
      {"Cache", kCmdCache},
      {"WriteZeroes", kCmdWriteZeroes},
      {"BlockStatus", kCmdBlockStatus}};
  for (const auto& [command, type] : kCommands) {
    for (int bit = 0; bit < 16; ++bit) cases.push_back({command, type, bit});
  }
  return cases;
}

class CommandFlag
    : public Transmission,
      public testing::WithParamInterface<std::tuple<FlagCase, Style>> {};

TEST_P(CommandFlag, IsAcceptedOrRefusedAsTheSpecificationSays) {
  const auto& [tested, style] = GetParam();
  Start(style);
  const auto flag = static_cast<uint16_t>(1u << tested.bit);
  Request request = {
      .type = tested.type, .flags = flag, .offset = kPage, .length = kPage};
  if (tested.type == kCmdFlush) request.offset = request.length = 0;
  const bool valid =
      flag == kCmdFlagFua || (ValidFlags(tested.type, style) & flag) != 0;
  // With simple replies nobody can have selected a context.
  const bool served =
      valid && (tested.type != kCmdBlockStatus || style != Style::kSimple);
  const Reply reply = Do(request);
  if (flag == kCmdFlagFastZero && served) {
    EXPECT_TRUE(reply.error == kNbdOk || reply.error == kNbdEnotsup);
  } else {
    EXPECT_TRUE(HasError(reply, served ? kNbdOk : kNbdEinval));
  }
  const bool changed =
      served && (tested.type == kCmdWrite || tested.type == kCmdWriteZeroes);
  if (!changed && tested.type != kCmdTrim) {
    EXPECT_TRUE(SameBytes(image().Read(0, 3 * kPage), Pattern(0, 3 * kPage)));
  }
  ExpectAlive();
  session().End();
}

INSTANTIATE_TEST_SUITE_P(Bit, CommandFlag,
                         testing::Combine(testing::ValuesIn(AllFlagCases()),
                                          testing::ValuesIn(kEachStyle)),
                         [](const auto& info_of_test) {
                           const FlagCase& flag =
                               std::get<0>(info_of_test.param);
                           return std::string(flag.command) + "Bit" +
                                  std::to_string(flag.bit) +
                                  NameOf(std::get<1>(info_of_test.param));
                         });

TEST_P(EachStyle, SeveralValidFlagsTogetherAreAccepted) {
  StartStyle();
  const auto zero_flags = static_cast<uint16_t>(kCmdFlagFua | kCmdFlagNoHole);
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWriteZeroes, .flags = zero_flags, .length = kPage}),
      kNbdOk));
  if (structured()) {
    const auto read_flags = static_cast<uint16_t>(kCmdFlagFua | kCmdFlagDf);
    EXPECT_TRUE(HasError(
        Do({.type = kCmdRead, .flags = read_flags, .length = kPage}), kNbdOk));
    const auto status_flags =
        static_cast<uint16_t>(kCmdFlagFua | kCmdFlagReqOne);
    EXPECT_TRUE(HasError(
        Do({.type = kCmdBlockStatus, .flags = status_flags, .length = kPage}),
        kNbdOk));
  }
  const auto one_invalid = static_cast<uint16_t>(kCmdFlagFua | 1u << 15);
  ExpectError({.type = kCmdWrite, .flags = one_invalid, .length = kPage},
              kNbdEinval);
  session().End();
}

TEST_P(EachStyle, FuaIsAcceptedOnAReadOnlyExportToo) {
  StartStyle({"-r"});
  EXPECT_TRUE(HasError(
      Do({.type = kCmdRead, .flags = kCmdFlagFua, .length = kPage}), kNbdOk));
  EXPECT_TRUE(HasError(Do({.type = kCmdFlush, .flags = kCmdFlagFua}), kNbdOk));
  EXPECT_TRUE(HasError(
      Do({.type = kCmdCache, .flags = kCmdFlagFua, .length = kPage}), kNbdOk));
  session().End();
}

// -- Stable storage

TEST_P(EachStyle, AfterFlushNoWriteThatWasAnsweredIsInMemoryOnly) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  StartStyle();
  for (uint64_t offset = 0; offset < kImageSize; offset += 1 << 20) {
    EXPECT_TRUE(HasError(
        Do({.type = kCmdWrite, .offset = offset, .length = 100000}), kNbdOk));
  }
  EXPECT_TRUE(HasError(Do({.type = kCmdFlush}), kNbdOk));
  EXPECT_EQ(image().UnwrittenPages(0, kImageSize), 0u);
  session().End();
}

TEST_P(EachStyle, AWriteWithFuaIsOnStableStorageWhenAnswered) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  StartStyle();
  image().DropCache();
  for (uint32_t length :
       {uint32_t{1}, kPage, uint32_t{100001}, uint32_t{1 << 20}}) {
    EXPECT_TRUE(HasError(Do({.type = kCmdWrite,
                             .flags = kCmdFlagFua,
                             .offset = kPage,
                             .length = length}),
                         kNbdOk));
    EXPECT_EQ(image().UnwrittenPages(kPage, length), 0u) << length;
  }
  session().End();
}

TEST_P(EachStyle, WriteZeroesWithFuaIsOnStableStorageWhenAnswered) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  StartStyle();
  image().DropCache();
  for (uint16_t flags :
       {kCmdFlagFua, static_cast<uint16_t>(kCmdFlagFua | kCmdFlagNoHole)}) {
    // Unaligned, so that the edges have to be written as data.
    EXPECT_TRUE(HasError(Do({.type = kCmdWriteZeroes,
                             .flags = flags,
                             .offset = 100,
                             .length = 300000}),
                         kNbdOk));
    EXPECT_EQ(image().UnwrittenPages(0, 1 << 20), 0u);
  }
  session().End();
}

TEST_F(Transmission, AFlushCoversTheWritesOfAnotherConnection) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  Start(Style::kSimple);
  Session other({image().path()});
  EXPECT_NE(other.peer().EnterTransmission(false).flags & kCanMultiConn, 0);
  EXPECT_TRUE(HasError(Do({.type = kCmdWrite, .offset = 0, .length = 1 << 20}),
                       kNbdOk));
  // Visible there at once, and stable after a flush there:
  // NBD_FLAG_CAN_MULTI_CONN.
  const Reply reply =
      other.peer().Transact({.type = kCmdRead, .length = 1 << 20});
  EXPECT_TRUE(SameBytes(reply.data, Pattern(0, 1 << 20, 99)));
  EXPECT_TRUE(HasError(other.peer().Transact({.type = kCmdFlush}), kNbdOk));
  EXPECT_EQ(image().UnwrittenPages(0, kImageSize), 0u);
  other.End();
  session().End();
}

// -- Lengths of zero

TEST_P(EachStyle, ARequestOfLengthZeroSucceedsAndTransfersNothing) {
  StartStyle();
  for (uint16_t type :
       {kCmdRead, kCmdWrite, kCmdTrim, kCmdCache, kCmdWriteZeroes}) {
    for (uint64_t offset : {uint64_t{0}, uint64_t{12345}, kImageSize}) {
      const Reply reply = Do({.type = type, .offset = offset, .length = 0});
      EXPECT_TRUE(HasError(reply, kNbdOk)) << type << " at " << offset;
      EXPECT_EQ(reply.structured, structured());
      EXPECT_TRUE(reply.pieces.empty());
    }
  }
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize)));
  ExpectAlive();
  session().End();
}

TEST_P(EachStyle, ABlockStatusOfLengthZeroIsEinval) {
  StartStyle();
  ExpectError({.type = kCmdBlockStatus, .offset = 0, .length = 0}, kNbdEinval);
  session().End();
}

// -- Errors

struct ErrorCase {
  const char* word;
  Request request;
  uint32_t error;
  bool read_only = false;
};

constexpr uint64_t kEnd = kImageSize;
constexpr uint64_t kHighest = ~uint64_t{0};
constexpr uint32_t kLongest = ~uint32_t{0};

const std::vector<ErrorCase>& ErrorCases() {
  static const std::vector<ErrorCase> cases = {
      {"ReadAtTheEnd",
       {.type = kCmdRead, .offset = kEnd, .length = 1},
       kNbdEinval},
      {"ReadOverTheEnd",
       {.type = kCmdRead, .offset = kEnd - 1, .length = 2},
       kNbdEinval},
      {"ReadOfMoreThanTheExport",
       {.type = kCmdRead, .length = kEnd + 1},
       kNbdEinval},
      {"ReadAtTheHighestOffset",
       {.type = kCmdRead, .offset = kHighest, .length = 1},
       kNbdEinval},
      {"ReadThatWrapsAround",
       {.type = kCmdRead, .offset = kHighest - 4095, .length = 8192},
       kNbdEinval},
      {"ReadAtANegativeOffset",
       {.type = kCmdRead, .offset = uint64_t{1} << 63, .length = 512},
       kNbdEinval},
      {"WriteAtTheEnd",
       {.type = kCmdWrite, .offset = kEnd, .length = 1},
       kNbdEnospc},
      {"WriteOverTheEnd",
       {.type = kCmdWrite, .offset = kEnd - 1, .length = 100000},
       kNbdEnospc},
      {"WriteAtTheHighestOffset",
       {.type = kCmdWrite, .offset = kHighest, .length = 512},
       kNbdEnospc},
      {"WriteThatWrapsAround",
       {.type = kCmdWrite, .offset = kHighest - 4095, .length = 8192},
       kNbdEnospc},
      {"TrimAtTheEnd",
       {.type = kCmdTrim, .offset = kEnd, .length = 1},
       kNbdEinval},
      {"TrimOverTheEnd",
       {.type = kCmdTrim, .offset = kEnd - 512, .length = 1024},
       kNbdEinval},
      {"TrimThatWrapsAround",
       {.type = kCmdTrim, .offset = kHighest - 4095, .length = 8192},
       kNbdEinval},
      {"TrimOfTheGreatestLength",
       {.type = kCmdTrim, .length = kLongest},
       kNbdEinval},
      {"CacheAtTheEnd",
       {.type = kCmdCache, .offset = kEnd, .length = 1},
       kNbdEinval},
      {"CacheOverTheEnd",
       {.type = kCmdCache, .offset = kEnd - 1, .length = 2},
       kNbdEinval},
      {"CacheThatWrapsAround",
       {.type = kCmdCache, .offset = kHighest - 4095, .length = 8192},
       kNbdEinval},
      {"WriteZeroesAtTheEnd",
       {.type = kCmdWriteZeroes, .offset = kEnd, .length = 1},
       kNbdEnospc},
      {"WriteZeroesOverTheEnd",
       {.type = kCmdWriteZeroes, .offset = kEnd - 1, .length = 2},
       kNbdEnospc},
      {"WriteZeroesThatWrapsAround",
       {.type = kCmdWriteZeroes, .offset = kHighest - 4095, .length = 8192},
       kNbdEnospc},
      {"WriteZeroesOfTheGreatestLength",
       {.type = kCmdWriteZeroes, .length = kLongest},
       kNbdEnospc},
      {"FlushWithAnOffset", {.type = kCmdFlush, .offset = 1}, kNbdEinval},
      {"FlushWithALength", {.type = kCmdFlush, .length = 512}, kNbdEinval},
      {"FlushWithBoth",
       {.type = kCmdFlush, .offset = 512, .length = 512},
       kNbdEinval},
      {"Resize", {.type = kCmdResize, .length = 512}, kNbdEinval},
      {"AnUnknownCommand", {.type = 9, .offset = 0, .length = 512}, kNbdEinval},
      {"AnUnknownCommandWithFua",
       {.type = 100, .flags = kCmdFlagFua, .length = 512},
       kNbdEinval},
      {"TheHighestCommand",
       {.type = 0xffff, .flags = 0, .offset = kHighest, .length = kLongest},
       kNbdEinval},
      {"WriteToReadOnly",
       {.type = kCmdWrite, .length = 100000},
       kNbdEperm,
       true},
      {"WriteWithFuaToReadOnly",
       {.type = kCmdWrite, .flags = kCmdFlagFua, .length = 512},
       kNbdEperm,
       true},
      {"TrimOfReadOnly", {.type = kCmdTrim, .length = 512}, kNbdEperm, true},
      {"WriteZeroesToReadOnly",
       {.type = kCmdWriteZeroes, .length = 512},
       kNbdEperm,
       true},
      {"ReadOverTheEndOfReadOnly",
       {.type = kCmdRead, .offset = kEnd - 1, .length = 2},
       kNbdEinval,
       true},
  };
  return cases;
}

class RequestError
    : public Transmission,
      public testing::WithParamInterface<std::tuple<ErrorCase, Style>> {};

TEST_P(RequestError, IsTheOneOfTheSpecificationAndTheConnectionGoesOn) {
  const auto& [tested, style] = GetParam();
  Start(style, tested.read_only ? std::vector<std::string>{"-r"}
                                : std::vector<std::string>{});
  const Reply reply = Do(tested.request);
  EXPECT_TRUE(HasError(reply, tested.error));
  // Errors prefer structured replies, which can say in words what was wrong.
  EXPECT_EQ(reply.structured, style != Style::kSimple);
  EXPECT_EQ(reply.message.empty(), style == Style::kSimple);
  EXPECT_TRUE(reply.pieces.empty());
  ExpectAlive();
  EXPECT_EQ(image().size(), kImageSize);
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize)));
  session().End();
}

INSTANTIATE_TEST_SUITE_P(Of, RequestError,
                         testing::Combine(testing::ValuesIn(ErrorCases()),
                                          testing::ValuesIn(kEachStyle)),
                         [](const auto& info_of_test) {
                           return std::string(
                                      std::get<0>(info_of_test.param).word) +
                                  NameOf(std::get<1>(info_of_test.param));
                         });

TEST_P(EachStyle, ErrorsOneAfterTheOtherKeepTheStreamInStep) {
  StartStyle();
  // All of them in one send, so that each payload is followed at once by
  // another header.
  Bytes batch;
  std::vector<std::pair<uint64_t, uint32_t>> expected;
  uint64_t cookie = 1000;
  for (const ErrorCase& tested : ErrorCases()) {
    if (tested.read_only) continue;
    Request request = tested.request;
    request.cookie = ++cookie;
    batch += peer().Prepare(request, PayloadFor(request));
    expected.emplace_back(cookie, tested.error);
  }
  peer().Send(batch);
  const auto replies = peer().ReceiveAllReplies();
  for (const auto& [number, error] : expected) {
    EXPECT_TRUE(HasError(replies.at(number), error))
        << ErrorCases()[number - 1001].word;
  }
  session().End();
}

TEST_P(EachStyle, AReadBeyondTheMaximumPayloadIsAnErrorWithoutData) {
  const TempImage large = TempImage::Sparse(128 << 20);
  Serve(large, GetParam());
  for (uint32_t length : {kLongestRequest + 1, uint32_t{128 << 20}}) {
    const Reply reply = Do({.type = kCmdRead, .length = length});
    EXPECT_TRUE(HasError(reply, structured() ? kNbdEoverflow : kNbdEinval))
        << length;
    EXPECT_TRUE(reply.pieces.empty());
  }
  EXPECT_TRUE(HasError(Do({.type = kCmdRead, .length = kPage}), kNbdOk));
  session().End();
}

TEST_P(EachStyle, AWriteBeyondTheMaximumPayloadIsDrainedAndRefused) {
  const TempImage large = TempImage::Sparse(128 << 20);
  Serve(large, GetParam());
  if (GetParam() == Style::kExtended) GTEST_SKIP() << "it ends the connection";
  for (uint32_t length : {kLongestRequest + 1, uint32_t{80 << 20}}) {
    EXPECT_TRUE(
        HasError(Do({.type = kCmdWrite, .length = length}), kNbdEinval));
    EXPECT_TRUE(HasError(Do({.type = kCmdRead, .length = kPage}), kNbdOk));
  }
  EXPECT_TRUE(SameBytes(large.Read(0, kPage), Bytes(kPage, '\0')));
  session().End();
}

TEST_P(EachStyle, APayloadThatIsRefusedIsDrainedWhateverItsLength) {
  StartStyle({"-r"});
  for (uint32_t length :
       {1u, 4095u, 65537u, 1u << 20, (1u << 20) + 1, 4u << 20}) {
    ExpectError({.type = kCmdWrite, .length = length}, kNbdEperm);
  }
  session().End();
}

TEST_P(EachStyle, AnEmptyExportHasNoByteButIsServed) {
  const TempImage empty = TempImage::Sparse(0);
  Serve(empty, GetParam());
  EXPECT_TRUE(HasError(Do({.type = kCmdRead, .length = 0}), kNbdOk));
  EXPECT_TRUE(HasError(Do({.type = kCmdRead, .length = 1}), kNbdEinval));
  EXPECT_TRUE(HasError(Do({.type = kCmdWrite, .length = 1}), kNbdEnospc));
  EXPECT_TRUE(HasError(Do({.type = kCmdFlush}), kNbdOk));
  EXPECT_EQ(empty.size(), 0u);
  session().End();
}

TEST_P(EachStyle, AnExportOfAnOddSizeIsServedToItsLastByte) {
  const TempImage odd = TempImage::WithPattern(1234567);
  Serve(odd, GetParam());
  EXPECT_TRUE(SameBytes(Do({.type = kCmdRead, .length = 1234567}).data,
                        Pattern(0, 1234567)));
  EXPECT_TRUE(HasError(Do({.type = kCmdRead, .length = 1234568}), kNbdEinval));
  EXPECT_TRUE(HasError(Do({.type = kCmdWrite, .offset = 1234560, .length = 8}),
                       kNbdEnospc));
  EXPECT_TRUE(HasError(Do({.type = kCmdWrite, .offset = 1234560, .length = 7}),
                       kNbdOk));
  EXPECT_EQ(odd.size(), 1234567u);
  session().End();
}

TEST_P(EachStyle, AFileThatHasShrunkIsEioBehindItsPresentEnd) {
  StartStyle();
  image().Truncate(1 << 20);
  const Reply behind =
      Do({.type = kCmdRead, .offset = 2 << 20, .length = kPage});
  EXPECT_TRUE(HasError(behind, kNbdEio));
  const Reply across =
      Do({.type = kCmdRead, .offset = (1 << 20) - 100, .length = kPage});
  EXPECT_TRUE(HasError(across, kNbdEio));
  const Reply before = Do({.type = kCmdRead, .offset = 0, .length = 1 << 20});
  EXPECT_TRUE(HasError(before, kNbdOk));
  EXPECT_TRUE(SameBytes(before.data, Pattern(0, 1 << 20)));
  session().End();
}

TEST_P(EachStyle, AFileThatHasGrownKeepsTheSizeThatWasNegotiated) {
  StartStyle();
  image().Truncate(2 * kImageSize);
  ExpectError({.type = kCmdRead, .offset = kImageSize, .length = 512},
              kNbdEinval);
  ExpectError({.type = kCmdWrite, .offset = kImageSize, .length = 512},
              kNbdEnospc);
  session().End();
}

TEST_P(EachStyle, EfbigIsEnospcAndNoSignalEndsTheServer) {
  const TempImage sparse = TempImage::Sparse(kImageSize);
  Serve(sparse, GetParam(), {}, {.file_size_limit = 1 << 20});
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWrite, .offset = 2 << 20, .length = kPage}), kNbdEnospc));
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWrite, .offset = (1 << 20) - 100, .length = kPage}),
      kNbdEnospc));
  EXPECT_TRUE(
      HasError(Do({.type = kCmdWrite, .offset = 0, .length = kPage}), kNbdOk));
  session().End();
}

// -- Cookies

TEST_P(EachStyle, TheCookieIsOpaque) {
  StartStyle();
  for (uint64_t cookie : {uint64_t{0}, ~uint64_t{0}, uint64_t{1} << 63,
                          uint64_t{kSimpleReplyMagic}}) {
    const Reply reply = Do({.type = kCmdRead, .length = 512, .cookie = cookie});
    EXPECT_EQ(reply.cookie, cookie);
    EXPECT_TRUE(SameBytes(reply.data, Pattern(0, 512)));
    const Reply error = Do({.type = 77, .cookie = cookie});
    EXPECT_EQ(error.cookie, cookie);
  }
  session().End();
}

TEST_P(EachStyle, RequestsWithTheSameCookieAreEachAnswered) {
  StartStyle();
  Bytes batch;
  for (int i = 0; i < 5; ++i)
    batch += peer().Prepare({.type = kCmdFlush, .cookie = 42});
  peer().Send(batch);
  for (int i = 0; i < 5; ++i) {
    const Reply reply = peer().ReceiveReply();
    EXPECT_EQ(reply.cookie, 42u);
    EXPECT_TRUE(HasError(reply, kNbdOk));
  }
  session().End();
}

// -- Magic numbers and the end of transmission

class WrongRequestMagic : public Transmission,
                          public testing::WithParamInterface<uint32_t> {};

TEST_P(WrongRequestMagic, IsAHardDisconnect) {
  Start(Style::kStructured);
  ExpectAlive();
  Bytes message =
      RequestMessage({.type = kCmdRead, .length = 512, .cookie = 1});
  message.replace(0, 4, Writer().U32(GetParam()).bytes());
  peer().Send(message);
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol));
}

// Among them the reserved and historic numbers of the section "Reserved Magic
// values".
INSTANTIATE_TEST_SUITE_P(Magic, WrongRequestMagic,
                         testing::Values(0u, 0xffffffffu, kRequestMagic ^ 1u,
                                         0x12560953u, 0x96744668u, 0x25609514u,
                                         0x21e41c71u, kSimpleReplyMagic,
                                         kStructuredReplyMagic),
                         testing::PrintToStringParamName());

TEST_P(EachStyle, DiscIsNotAnsweredAndEndsTheServerWithSuccess) {
  StartStyle();
  peer().SendRequest({.type = kCmdDisc});
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

TEST_P(EachStyle, DiscWithFuaIsADisconnectToo) {
  StartStyle();
  peer().SendRequest({.type = kCmdDisc, .flags = kCmdFlagFua});
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

TEST_P(EachStyle, DiscWithReservedFieldsSetStillEndsTheConnection) {
  StartStyle();
  peer().SendRequest({.type = kCmdDisc, .offset = 512, .length = 512});
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  // A breach of a mandatory condition, by a client that wants to leave.
  EXPECT_TRUE(
      ExitedWithOneOf(session().WaitForExit(), {kExitOk, kExitProtocol}));
}

TEST_P(EachStyle, DiscWaitsForAllOutstandingRequests) {
  StartStyle();
  image().DropCache();
  Bytes batch;
  for (uint64_t i = 0; i < 64; ++i) {
    batch += peer().Prepare(
        {.type = kCmdRead, .offset = i * kPage, .length = 3 * kPage});
    batch += peer().Prepare({.type = kCmdWrite,
                             .flags = kCmdFlagFua,
                             .offset = (2 << 20) + i * kPage,
                             .length = kPage},
                            Pattern(i, kPage, 3));
  }
  batch += peer().Prepare({.type = kCmdFlush});
  batch += peer().Prepare({.type = kCmdDisc});
  peer().Send(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    EXPECT_TRUE(HasError(reply, kNbdOk)) << cookie;
  }
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_TRUE(SameBytes(image().Read((2 << 20) + i * kPage, kPage),
                          Pattern(i, kPage, 3)));
  }
}

// -- Reads in chunks

class StructuredRead : public Transmission,
                       public testing::WithParamInterface<Style> {
 protected:
  // Holes and data by turns, with the page cache cold.
  Peer& ServeSparse() {
    for (const auto& [offset, length] : kData)
      sparse_.Write(offset, Pattern(offset, length));
    sparse_.DropCache();
    return Serve(sparse_, GetParam());
  }
  Bytes Expected() const {
    Bytes bytes(kSparseSize, '\0');
    for (const auto& [offset, length] : kData) {
      bytes.replace(offset, length, Pattern(offset, length));
    }
    return bytes;
  }
  const TempImage& sparse() const { return sparse_; }

  static constexpr uint64_t kSparseSize = 16 << 20;
  static constexpr std::pair<uint64_t, uint32_t> kData[] = {
      {2 << 20, 1 << 20},
      {(5 << 20) + 65536, 65536},
      {(16 << 20) - 65536, 65536}};

 private:
  TempImage sparse_ = TempImage::Sparse(kSparseSize);
};

const auto kStylesWithChunks =
    testing::Values(Style::kStructured, Style::kExtended);

INSTANTIATE_TEST_SUITE_P(Replies, StructuredRead, kStylesWithChunks, StyleName);

TEST_P(StructuredRead, ASmallReadComesInOneChunk) {
  Start(GetParam());
  image().Read(0, kImageSize);
  for (uint32_t length : {uint32_t{1}, uint32_t{512}, kPage, uint32_t{65536}}) {
    const Reply reply =
        Do({.type = kCmdRead, .offset = 65536, .length = length});
    EXPECT_EQ(reply.chunks, 1) << length;
    EXPECT_TRUE(SameBytes(reply.data, Pattern(65536, length)));
  }
  session().End();
}

TEST_P(StructuredRead, HolesAreToldAsHolesAndTheBytesAreRight) {
  ServeSparse();
  ASSERT_GE(sparse().Segments().size(), 6u) << "the file system has no holes";
  const Reply reply = Do({.type = kCmdRead, .length = kSparseSize});
  ASSERT_TRUE(HasError(reply, kNbdOk));
  EXPECT_TRUE(SameBytes(reply.data, Expected()));
  uint64_t in_holes = 0;
  for (const Piece& piece : reply.pieces)
    in_holes += piece.hole ? piece.length : 0;
  EXPECT_GT(in_holes, 8u << 20) << "of 15 MiB of holes";
  // Nothing that holds data may come as a hole.
  EXPECT_LE(in_holes, kSparseSize - (1 << 20) - 65536 - 65536);
  session().End();
}

TEST_P(StructuredRead,
       ChunksBeginAndEndOnMultiplesOf512WhereTheRequestLetsThem) {
  ServeSparse();
  for (const bool is_cached : {true, false}) {
    for (uint64_t offset :
         {uint64_t{0}, uint64_t{777}, uint64_t{(2 << 20) - 1}}) {
      // What isn't in the cache is sent in several chunks of data.
      if (!is_cached) sparse().DropCache();
      const Request request = {
          .type = kCmdRead, .offset = offset, .length = 5 << 20};
      const Reply reply = Do(request);
      EXPECT_TRUE(
          SameBytes(reply.data, Expected().substr(offset, request.length)));
      for (const Piece& piece : reply.pieces) {
        EXPECT_TRUE(piece.offset == offset || piece.offset % 512 == 0);
        const uint64_t end = piece.offset + piece.length;
        EXPECT_TRUE(end == offset + request.length || end % 512 == 0);
      }
    }
  }
  session().End();
}

TEST_P(StructuredRead,
       WithDontFragmentAnyReadIsOneChunkOfDataWithTheZeroesInIt) {
  ServeSparse();
  for (uint32_t length : {uint32_t{1}, uint32_t{65536}, uint32_t{1 << 20},
                          uint32_t{4 << 20}, uint32_t{kSparseSize}}) {
    sparse().DropCache();
    const Reply reply =
        Do({.type = kCmdRead, .flags = kCmdFlagDf, .length = length});
    ASSERT_TRUE(HasError(reply, kNbdOk)) << length;
    EXPECT_TRUE(SameBytes(reply.data, Expected().substr(0, length)));
    ASSERT_EQ(reply.pieces.size(), 1u) << length;
    // A hole alone could be told as such, but a mixture must be data.
    EXPECT_TRUE(length <= 2 << 20 || !reply.pieces[0].hole);
  }
  session().End();
}

TEST_P(StructuredRead, DontFragmentWorksUpToTheMaximumPayload) {
  const TempImage large = TempImage::Sparse(kMaxPayload + kPage);
  large.Write(0, Pattern(0, 1 << 20));
  large.Write(kMaxPayload - (1 << 20),
              Pattern(kMaxPayload - (1 << 20), 1 << 20));
  Serve(large, GetParam());
  for (const bool is_cached : {true, false}) {
    if (!is_cached) large.DropCache();
    const Reply reply =
        Do({.type = kCmdRead, .flags = kCmdFlagDf, .length = kMaxPayload});
    ASSERT_TRUE(HasError(reply, kNbdOk));
    EXPECT_EQ(reply.pieces.size(), 1u);
    EXPECT_TRUE(SameBytes(reply.data, large.Read(0, kMaxPayload)));
  }
  const Reply beyond =
      Do({.type = kCmdRead, .flags = kCmdFlagDf, .length = kMaxPayload + 1});
  EXPECT_TRUE(HasError(beyond, kNbdEoverflow));
  session().End();
}

// Peer compares each chunk with it.
TEST_P(StructuredRead, BeyondTheMaximumPayloadComesInChunksThatAreNot) {
  const TempImage large = TempImage::WithPattern(kLongestRequest);
  Serve(large, GetParam());
  for (const bool is_cached : {true, false}) {
    if (!is_cached) large.DropCache();
    for (const uint32_t length : {kMaxPayload + 1, kLongestRequest}) {
      const Reply reply = Do({.type = kCmdRead, .length = length});
      ASSERT_TRUE(HasError(reply, kNbdOk));
      EXPECT_GT(reply.pieces.size(), 1u);
      EXPECT_TRUE(SameBytes(reply.data, large.Read(0, length)));
    }
  }
  session().End();
}

TEST_P(StructuredRead,
       AReadAcrossThePresentEndOfAShrunkFileNeverPassesAsSuccess) {
  const TempImage large = TempImage::WithPattern(8 << 20);
  Serve(large, GetParam());
  large.Truncate((4 << 20) + 100);
  for (uint16_t flags : {uint16_t{0}, kCmdFlagDf}) {
    const Reply reply =
        Do({.type = kCmdRead, .flags = flags, .length = 8 << 20});
    EXPECT_TRUE(HasError(reply, kNbdEio));
  }
  EXPECT_TRUE(HasError(Do({.type = kCmdRead, .length = kPage}), kNbdOk));
  session().End();
}

TEST_F(Transmission,
       ALargeSimpleReadThatFailsInTheMiddleIsAnErrorOrAHardDisconnect) {
  const TempImage large = TempImage::WithPattern(8 << 20);
  Serve(large, Style::kSimple);
  large.Truncate((4 << 20) + 100);
  peer().SendRequest({.type = kCmdRead, .length = 8 << 20});
  const Bytes header = peer().Receive(16);
  Reader reader(header);
  EXPECT_EQ(reader.U32(), kSimpleReplyMagic);
  if (reader.U32() != kNbdOk) {
    // Known before the header went out: then the connection goes on.
    peer().SendRequest({.type = kCmdDisc});
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    return;
  }
  // The header has promised success: the server may not fill up with made-up
  // bytes.
  const Bytes rest = peer().ReceiveToEnd();
  EXPECT_LE(rest.size(), size_t{(4 << 20) + 100});
  EXPECT_TRUE(SameBytes(rest, Pattern(0, rest.size())));
  EXPECT_TRUE(session().WaitForExit().status.has_value())
      << "ended by a signal";
}

// -- Block status

class BlockStatus : public StructuredRead {
 protected:
  // Walks over the range as a client does, by what each reply covers.
  std::vector<Segment> Map(uint64_t size, uint16_t flags = 0) {
    std::vector<Segment> map;
    for (uint64_t at = 0; at < size;) {
      const auto length = static_cast<uint32_t>(size - at);
      const Reply reply = Do({.type = kCmdBlockStatus,
                              .flags = flags,
                              .offset = at,
                              .length = length});
      EXPECT_TRUE(HasError(reply, kNbdOk));
      if (reply.extents.empty()) break;
      for (const Extent& extent : reply.extents) {
        const bool hole = (extent.flags & kStateHole) != 0;
        EXPECT_EQ(hole, (extent.flags & kStateZero) != 0)
            << "a hole of a file reads as zero";
        if (!map.empty() && map.back().hole == hole) {
          map.back().length += extent.length;
        } else {
          map.push_back({at, extent.length, hole});
        }
        at += extent.length;
      }
    }
    return map;
  }
  static void ExpectSame(const std::vector<Segment>& actual,
                         const std::vector<Segment>& expected, uint64_t size) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_EQ(actual[i].offset, expected[i].offset);
      EXPECT_EQ(actual[i].hole, expected[i].hole);
      // The last one may reach beyond what was asked for, but not beyond the
      // export.
      EXPECT_EQ(std::min(actual[i].offset + actual[i].length, size),
                expected[i].offset + expected[i].length);
    }
    EXPECT_LE(actual.back().offset + actual.back().length, size);
  }
};

INSTANTIATE_TEST_SUITE_P(Replies, BlockStatus, kStylesWithChunks, StyleName);

TEST_P(BlockStatus, TellsTheHolesThatTheFileSystemKnows) {
  ServeSparse();
  ExpectSame(Map(kSparseSize), sparse().Segments(), kSparseSize);
  session().End();
}

TEST_P(BlockStatus, WithReqOneEachReplyIsOneExtentInsideOfTheRequest) {
  ServeSparse();
  ExpectSame(Map(kSparseSize, kCmdFlagReqOne), sparse().Segments(),
             kSparseSize);
  for (uint64_t offset :
       {uint64_t{0}, uint64_t{2 << 20}, uint64_t{(3 << 20) - 1}}) {
    for (uint32_t length : {1u, 512u, 100000u}) {
      const Reply reply = Do({.type = kCmdBlockStatus,
                              .flags = kCmdFlagReqOne,
                              .offset = offset,
                              .length = length});
      EXPECT_TRUE(HasError(reply, kNbdOk));
      ASSERT_EQ(reply.extents.size(), 1u);
      EXPECT_LE(reply.extents[0].length, length);
    }
  }
  session().End();
}

TEST_P(BlockStatus, SeveralExtentsComeInOneReplyWithAlternatingStates) {
  ServeSparse();
  const Reply reply = Do({.type = kCmdBlockStatus, .length = kSparseSize});
  ASSERT_TRUE(HasError(reply, kNbdOk));
  EXPECT_GT(reply.extents.size(), 1u);
  for (size_t i = 1; i < reply.extents.size(); ++i) {
    EXPECT_NE(reply.extents[i].flags, reply.extents[i - 1].flags) << i;
  }
  session().End();
}

TEST_P(BlockStatus, AnExtentThatSaysZeroReadsAsZero) {
  ServeSparse();
  for (const Segment& segment : Map(kSparseSize)) {
    if (!segment.hole) continue;
    const Reply reply = Do({.type = kCmdRead,
                            .offset = segment.offset,
                            .length = static_cast<uint32_t>(segment.length)});
    EXPECT_TRUE(SameBytes(reply.data, Bytes(segment.length, '\0')));
  }
  session().End();
}

TEST_P(BlockStatus,
       ExtentsOfAnUnalignedQueryAreMultiplesOf512ExceptAtTheEdges) {
  ServeSparse();
  constexpr uint64_t kOffset = (1 << 20) + 77;
  const Reply reply =
      Do({.type = kCmdBlockStatus, .offset = kOffset, .length = (6 << 20) + 5});
  ASSERT_GT(reply.extents.size(), 1u);
  EXPECT_EQ((kOffset + reply.extents[0].length) % 512, 0u);
  for (size_t i = 1; i + 1 < reply.extents.size(); ++i) {
    EXPECT_EQ(reply.extents[i].length % 512, 0u) << i;
  }
  session().End();
}

// A descriptor's length has 32 bits: an extent that needs more is cut, and what
// follows it is for the next request to tell, since it would be misplaced here.
TEST_P(BlockStatus,
       AnExtentThatEndsBehind4GibIsCutAndTheOnesBehindItStayInTheirPlace) {
  constexpr uint64_t kEdge = uint64_t{4} << 30;
  constexpr uint64_t kSize = kEdge + (1 << 20);
  const TempImage image = TempImage::Sparse(kSize);
  image.Write(kEdge, Pattern(kEdge, kPage));
  image.DropCache();
  Serve(image, GetParam());
  const std::vector<Segment> segments = image.Segments();
  for (const uint64_t start :
       {uint64_t{0}, uint64_t{256}, uint64_t{512}, uint64_t{4096}}) {
    uint64_t at = start;
    while (at < kSize) {
      const Reply reply = Do({.type = kCmdBlockStatus,
                              .offset = at,
                              .length = static_cast<uint32_t>(
                                  std::min<uint64_t>(kSize - at, 0xffffffff))});
      ASSERT_TRUE(HasError(reply, kNbdOk));
      ASSERT_FALSE(reply.extents.empty());
      for (const Extent& extent : reply.extents) {
        const bool hole = (extent.flags & kStateHole) != 0;
        // All of the extent is in one segment of the file.
        const auto segment = std::find_if(
            segments.begin(), segments.end(), [&](const Segment& s) {
              return s.offset <= at && at < s.offset + s.length;
            });
        ASSERT_NE(segment, segments.end()) << at;
        EXPECT_EQ(hole, segment->hole) << "from " << start << " at " << at;
        EXPECT_LE(at + extent.length, segment->offset + segment->length)
            << "from " << start << " at " << at;
        at += extent.length;
      }
    }
    EXPECT_EQ(at, kSize);
  }
  session().End();
}

TEST_P(BlockStatus, AFileWithoutHolesIsAllData) {
  Start(GetParam());
  ExpectSame(Map(kImageSize), {{0, kImageSize, false}}, kImageSize);
  session().End();
}

TEST_P(BlockStatus, TrimmedAndZeroedAreasBecomeHoles) {
  NEED_OR_SKIP(image().CanPunchHoles(), "the file system can't punch holes");
  Start(GetParam());
  EXPECT_TRUE(
      HasError(Do({.type = kCmdTrim, .offset = 0, .length = 1 << 20}), kNbdOk));
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWriteZeroes, .offset = 2 << 20, .length = 1 << 20}),
      kNbdOk));
  ExpectSame(Map(kImageSize),
             {{0, 1 << 20, true},
              {1 << 20, 1 << 20, false},
              {2 << 20, 1 << 20, true},
              {3 << 20, 1 << 20, false}},
             kImageSize);
  session().End();
}

TEST_P(BlockStatus, AWriteIntoAHoleIsToldAsDataAtOnce) {
  ServeSparse();
  EXPECT_TRUE(HasError(
      Do({.type = kCmdWrite, .offset = 8 << 20, .length = 65536}), kNbdOk));
  const Reply reply =
      Do({.type = kCmdBlockStatus, .offset = 8 << 20, .length = 65536});
  ASSERT_TRUE(HasError(reply, kNbdOk));
  for (const Extent& extent : reply.extents)
    EXPECT_EQ(extent.flags & kStateZero, 0u);
  session().End();
}

TEST_P(BlockStatus, ManyExtentsAreTruncatedButCovered) {
  constexpr uint64_t kMany = 4000;
  const TempImage comb = TempImage::Sparse(kMany * 2 * kPage);
  for (uint64_t i = 0; i < kMany; ++i)
    comb.Write(i * 2 * kPage, Pattern(i, kPage));
  comb.DropCache();
  Serve(comb, GetParam());
  ExpectSame(Map(kMany * 2 * kPage), comb.Segments(), kMany * 2 * kPage);
  session().End();
}

TEST_P(BlockStatus, OverTheEndIsEinval) {
  Start(GetParam());
  ExpectError({.type = kCmdBlockStatus, .offset = kEnd, .length = 1},
              kNbdEinval);
  ExpectError({.type = kCmdBlockStatus, .offset = kEnd - 1, .length = 2},
              kNbdEinval);
  ExpectError(
      {.type = kCmdBlockStatus, .offset = kHighest - 511, .length = 1024},
      kNbdEinval);
  session().End();
}

TEST_P(BlockStatus, WorksOnAReadOnlyExport) {
  Start(GetParam(), {"-r"});
  ExpectSame(Map(kImageSize), {{0, kImageSize, false}}, kImageSize);
  session().End();
}

TEST_F(Transmission, ABlockStatusWithoutASelectedContextIsEinval) {
  for (const Style style : kEachStyle) {
    Session without({image().path()});
    without.peer().EnterTransmission(style);
    const Reply reply =
        without.peer().Transact({.type = kCmdBlockStatus, .length = kPage});
    EXPECT_TRUE(HasError(reply, kNbdEinval));
    without.End();
  }
}

}  // namespace
