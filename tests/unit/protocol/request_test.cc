// Requests on bytes, and the table of what the specification says of each. The
// numbers in the tables are the specification's, from support/wire.h.

#include "protocol/request.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "support/wire.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::ErrorName;
using nbdtest::Writer;

using nbdtest::kCmdBlockStatus;
using nbdtest::kCmdCache;
using nbdtest::kCmdFlush;
using nbdtest::kCmdRead;
using nbdtest::kCmdTrim;
using nbdtest::kCmdWrite;
using nbdtest::kCmdWriteZeroes;
using nbdtest::kNbdEinval;
using nbdtest::kNbdEnospc;
using nbdtest::kNbdEoverflow;
using nbdtest::kNbdEperm;
using nbdtest::kNbdOk;

// -- Bytes

const RequestDecoder kCompact(Headers::kCompact, nbdtest::kMaxPayload);
const RequestDecoder kExtended(Headers::kExtended, nbdtest::kMaxPayload);

TEST(RequestHeader, IsTakenApart) {
  const Bytes bytes = Writer()
                          .U32(nbdtest::kRequestMagic)
                          .U16(0x8001)
                          .U16(0x0102)
                          .U64(0xfedcba9876543210)
                          .U64(0xf1f2f3f4f5f6f7f8)
                          .U32(0xfffffffd)
                          .bytes();
  ASSERT_EQ(bytes.size(), kCompact.header_bytes());
  const std::optional<Request> request = kCompact.Decode(bytes);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->flags, 0x8001);
  EXPECT_EQ(request->type, 0x0102);
  EXPECT_EQ(request->cookie, 0xfedcba9876543210u);
  EXPECT_EQ(request->offset, 0xf1f2f3f4f5f6f7f8u);
  EXPECT_EQ(request->length, 0xfffffffdu);
}

TEST(RequestHeader, IsRefusedWhenAnyBitOfTheMagicIsWrong) {
  const Bytes good = nbdtest::RequestMessage({});
  ASSERT_TRUE(kCompact.Decode(good).has_value());
  for (int bit = 0; bit < 32; ++bit) {
    Bytes bad = good;
    bad[static_cast<size_t>(bit / 8)] ^= static_cast<char>(1 << (bit % 8));
    EXPECT_FALSE(kCompact.Decode(bad).has_value()) << bit;
  }
}

TEST(ExtendedRequestHeader, IsTakenApart) {
  const Bytes bytes = Writer()
                          .U32(nbdtest::kExtendedRequestMagic)
                          .U16(0x8001)
                          .U16(0x0102)
                          .U64(0xfedcba9876543210)
                          .U64(0xf1f2f3f4f5f6f7f8)
                          .U64(0xe1e2e3e4e5e6e7e8)
                          .bytes();
  ASSERT_EQ(bytes.size(), kExtended.header_bytes());
  const std::optional<Request> request = kExtended.Decode(bytes);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->flags, 0x8001);
  EXPECT_EQ(request->type, 0x0102);
  EXPECT_EQ(request->cookie, 0xfedcba9876543210u);
  EXPECT_EQ(request->offset, 0xf1f2f3f4f5f6f7f8u);
  EXPECT_EQ(request->sent_offset, request->offset);
  EXPECT_EQ(request->length, 0xe1e2e3e4e5e6e7e8u);
}

TEST(RequestHeader, OfTheOtherKindIsRefused) {
  EXPECT_FALSE(kExtended.Decode(nbdtest::RequestMessage({}) + Bytes(4, '\0'))
                   .has_value());
  EXPECT_TRUE(
      kExtended.Decode(nbdtest::ExtendedRequestMessage({})).has_value());
  EXPECT_FALSE(
      kCompact.Decode(nbdtest::ExtendedRequestMessage({})).has_value());
}

uint64_t PayloadOf(const nbdtest::Request& request) {
  return PayloadBytes(*kCompact.Decode(nbdtest::RequestMessage(request)));
}

uint64_t ExtendedPayloadOf(const nbdtest::Request& request) {
  return PayloadBytes(
      *kExtended.Decode(nbdtest::ExtendedRequestMessage(request)));
}

TEST(Payload, FollowsAWriteOnly) {
  for (uint16_t type = 0; type < 20; ++type) {
    for (const uint16_t flags : {uint16_t{0}, nbdtest::kCmdFlagPayloadLen}) {
      EXPECT_EQ(PayloadOf({.type = type, .flags = flags, .length = 4096}),
                type == kCmdWrite ? 4096u : 0u)
          << type;
    }
  }
}

TEST(Payload, FollowsARefusedWriteToo) {
  EXPECT_EQ(PayloadOf({.type = kCmdWrite,
                       .flags = 0xffff,
                       .offset = UINT64_MAX,
                       .length = UINT32_MAX}),
            UINT32_MAX);
}

// A write also without it: QEMU's client doesn't set it.
TEST(Payload, FollowsAnExtendedHeaderWithItsFlagWhateverTheCommandIs) {
  for (uint16_t type = 0; type < 20; ++type) {
    EXPECT_EQ(ExtendedPayloadOf({.type = type,
                                 .flags = nbdtest::kCmdFlagPayloadLen,
                                 .length = 4096}),
              4096u)
        << type;
    EXPECT_EQ(ExtendedPayloadOf(
                  {.type = type,
                   .flags = static_cast<uint16_t>(~nbdtest::kCmdFlagPayloadLen),
                   .length = 4096}),
              type == kCmdWrite ? 4096u : 0u)
        << type;
  }
}

TEST(Payload, MayBeTooLongToBeConsumedOnlyWithExtendedHeaders) {
  const auto exceeds = [](uint16_t flags, uint64_t length) {
    return kExtended.ExceedsPayloadLimit(
        *kExtended.Decode(nbdtest::ExtendedRequestMessage(
            {.type = kCmdTrim, .flags = flags, .length = length})));
  };
  EXPECT_FALSE(exceeds(nbdtest::kCmdFlagPayloadLen, nbdtest::kMaxPayload));
  EXPECT_TRUE(
      exceeds(nbdtest::kCmdFlagPayloadLen, uint64_t{nbdtest::kMaxPayload} + 1));
  EXPECT_TRUE(exceeds(nbdtest::kCmdFlagPayloadLen, UINT64_MAX));
  EXPECT_FALSE(exceeds(0, UINT64_MAX));
  EXPECT_FALSE(kCompact.ExceedsPayloadLimit(*kCompact.Decode(
      nbdtest::RequestMessage({.type = kCmdWrite, .length = UINT32_MAX}))));
}

TEST(CommandName, IsAWordForEachCommandAndOneForAllOthers) {
  std::set<std::string> names;
  for (uint16_t type = kCmdRead; type <= kCmdBlockStatus; ++type) {
    names.insert(std::string(CommandName(type)));
  }
  EXPECT_EQ(names.size(), 8u);
  for (const uint16_t type : {uint16_t{8}, uint16_t{9}, uint16_t{65535}}) {
    EXPECT_EQ(CommandName(type), "unknown command");
    EXPECT_EQ(names.count(std::string(CommandName(type))), 0u);
  }
  EXPECT_EQ(CommandName(kCmdRead), "read");
  EXPECT_EQ(CommandName(kCmdWriteZeroes), "write zeroes");
}

// -- Validation

constexpr uint64_t kSize = 128 << 20;

// What may have been negotiated, as far as it decides what is accepted.
struct Session {
  const char* name;
  bool read_only;
  bool structured;
  bool context;  // a metadata context was selected for the export
};
constexpr Session kWritable = {"writable, structured", false, true, true};
constexpr Session kWritableSimple = {"writable, simple", false, false, false};
constexpr Session kReadOnly = {"read-only, structured", true, true, true};
constexpr Session kReadOnlySimple = {"read-only, simple", true, false, false};
constexpr Session kNoContext = {"writable, structured, no context", false, true,
                                false};
constexpr Session kSessions[] = {kWritable, kWritableSimple, kReadOnly,
                                 kReadOnlySimple, kNoContext};

// As the negotiation advertises them.
Promises PromisesOf(const Session& session, uint64_t size = kSize) {
  unsigned flags = nbdtest::kHasFlags | nbdtest::kSendFlush |
                   nbdtest::kSendFua | nbdtest::kCanMultiConn |
                   nbdtest::kSendCache;
  flags |= session.read_only ? nbdtest::kReadOnly
                             : nbdtest::kSendTrim | nbdtest::kSendWriteZeroes |
                                   nbdtest::kSendFastZero;
  if (session.structured) flags |= nbdtest::kSendDf;
  Promises promises;
  promises.size_bytes = size;
  promises.transmission_flags = static_cast<uint16_t>(flags);
  promises.block_status = session.context;
  return promises;
}

uint32_t Validate(const Promises& promises, uint16_t type, uint16_t flags,
                  uint64_t offset, uint64_t length) {
  Request request;
  request.type = type;
  request.flags = flags;
  request.offset = offset;
  request.length = length;
  const Verdict verdict = ValidateRequest(request, promises);
  // "every error reply under structured replies carries a sentence".
  EXPECT_EQ(verdict.error == NBD_SUCCESS, verdict.sentence[0] == '\0')
      << "the sentence is '" << verdict.sentence << "'";
  return verdict.error;
}

struct Row {
  uint16_t type;
  uint16_t flags;
  uint64_t offset;
  uint64_t length;
  uint32_t error;
};

std::string Describe(const Row& row, const std::string& where) {
  return std::string(CommandName(row.type)) +
         " flags=" + std::to_string(row.flags) +
         " offset=" + std::to_string(row.offset) +
         " length=" + std::to_string(row.length) + ", " + where;
}

void ExpectVerdicts(const Promises& promises, const std::vector<Row>& rows,
                    const std::string& where) {
  for (const Row& row : rows) {
    const uint32_t error =
        Validate(promises, row.type, row.flags, row.offset, row.length);
    EXPECT_EQ(error, row.error)
        << Describe(row, where) << ": got " << ErrorName(error) << ", wanted "
        << ErrorName(row.error);
  }
}

// The kind of export against the command, all of them well-formed.
TEST(ValidateRequest, DependsOnWhatWasNegotiated) {
  struct Line {
    uint16_t type;
    uint64_t length;
    // In the order of kSessions.
    uint32_t errors[5];
  };
  const Line lines[] = {
      {kCmdRead, 4096, {kNbdOk, kNbdOk, kNbdOk, kNbdOk, kNbdOk}},
      {kCmdWrite, 4096, {kNbdOk, kNbdOk, kNbdEperm, kNbdEperm, kNbdOk}},
      {kCmdFlush, 0, {kNbdOk, kNbdOk, kNbdOk, kNbdOk, kNbdOk}},
      {kCmdTrim, 4096, {kNbdOk, kNbdOk, kNbdEperm, kNbdEperm, kNbdOk}},
      {kCmdCache, 4096, {kNbdOk, kNbdOk, kNbdOk, kNbdOk, kNbdOk}},
      {kCmdWriteZeroes, 4096, {kNbdOk, kNbdOk, kNbdEperm, kNbdEperm, kNbdOk}},
      {kCmdBlockStatus,
       4096,
       {kNbdOk, kNbdEinval, kNbdOk, kNbdEinval, kNbdEinval}},
  };
  for (const Line& line : lines) {
    for (size_t i = 0; i < std::size(kSessions); ++i) {
      ExpectVerdicts(PromisesOf(kSessions[i]),
                     {{line.type, 0, 0, line.length, line.errors[i]}},
                     kSessions[i].name);
    }
  }
}

// All 65536 combinations of command flags, for each command in each session.
TEST(ValidateRequest, TakesTheFlagsThatTheCommandHasAndNoOthers) {
  struct Line {
    uint16_t type;
    uint64_t length;
    uint16_t flags;             // beside FUA, which goes with every command
    uint16_t flags_structured;  // only where structured replies were negotiated
  };
  const Line lines[] = {
      {kCmdRead, 512, 0, nbdtest::kCmdFlagDf},
      {kCmdWrite, 512, 0, 0},
      {kCmdFlush, 0, 0, 0},
      {kCmdTrim, 512, 0, 0},
      {kCmdCache, 512, 0, 0},
      {kCmdWriteZeroes, 512,
       nbdtest::kCmdFlagNoHole | nbdtest::kCmdFlagFastZero, 0},
      {kCmdBlockStatus, 512, nbdtest::kCmdFlagReqOne, 0},
  };
  for (const Session& session : kSessions) {
    const Promises promises = PromisesOf(session);
    for (const Line& line : lines) {
      const uint32_t plain = Validate(promises, line.type, 0, 0, line.length);
      unsigned allowed = nbdtest::kCmdFlagFua | line.flags;
      if (session.structured) allowed |= line.flags_structured;
      // "If the server did not advertise NBD_FLAG_SEND_FAST_ZERO, then it ...
      // SHOULD fail with NBD_EINVAL if the NBD_CMD_FLAG_FAST_ZERO flag was
      // set."
      if (session.read_only) allowed &= ~unsigned{nbdtest::kCmdFlagFastZero};
      for (unsigned flags = 0; flags <= 0xffff; ++flags) {
        const uint32_t wanted = (flags & ~allowed) == 0 ? plain : kNbdEinval;
        const uint32_t error = Validate(
            promises, line.type, static_cast<uint16_t>(flags), 0, line.length);
        ASSERT_EQ(error, wanted) << CommandName(line.type) << " with flags "
                                 << flags << ", " << session.name;
      }
    }
  }
}

TEST(ValidateRequest, RefusesFuaWhereItWasNotAdvertised) {
  Promises promises = PromisesOf(kWritable);
  promises.transmission_flags =
      static_cast<uint16_t>(promises.transmission_flags & ~nbdtest::kSendFua);
  for (const uint16_t type :
       {kCmdRead, kCmdWrite, kCmdTrim, kCmdWriteZeroes, kCmdCache}) {
    EXPECT_EQ(Validate(promises, type, nbdtest::kCmdFlagFua, 0, 512),
              kNbdEinval)
        << type;
  }
}

TEST(ValidateRequest, RefusesEveryUnknownCommand) {
  for (const Session& session : kSessions) {
    for (unsigned type = 8; type <= 0xffff; ++type) {
      ASSERT_EQ(
          Validate(PromisesOf(session), static_cast<uint16_t>(type), 0, 0, 0),
          kNbdEinval)
          << type << ", " << session.name;
    }
  }
}

// Each command that a transmission flag exposes, without the flag.
TEST(ValidateRequest, RefusesACommandThatWasNotAdvertised) {
  struct Line {
    uint16_t type;
    uint64_t length;
    uint16_t exposed_by;
  };
  const Line lines[] = {
      {kCmdFlush, 0, nbdtest::kSendFlush},
      {kCmdTrim, 512, nbdtest::kSendTrim},
      {kCmdCache, 512, nbdtest::kSendCache},
      {kCmdWriteZeroes, 512, nbdtest::kSendWriteZeroes},
  };
  for (const Line& line : lines) {
    Promises promises = PromisesOf(kWritable);
    ASSERT_EQ(Validate(promises, line.type, 0, 0, line.length), kNbdOk);
    promises.transmission_flags =
        static_cast<uint16_t>(promises.transmission_flags & ~line.exposed_by);
    EXPECT_EQ(Validate(promises, line.type, 0, 0, line.length), kNbdEinval)
        << line.type;
  }
}

// The error for a range that leaves the export: NBD_ENOSPC where something
// would be written, else NBD_EINVAL.
constexpr struct {
  uint16_t type;
  uint32_t past_end;
} kRanged[] = {
    {kCmdRead, kNbdEinval},        {kCmdWrite, kNbdEnospc},
    {kCmdTrim, kNbdEinval},        {kCmdCache, kNbdEinval},
    {kCmdWriteZeroes, kNbdEnospc}, {kCmdBlockStatus, kNbdEinval},
};

TEST(ValidateRequest, KeepsRequestsInsideTheExport) {
  for (const auto& [type, past_end] : kRanged) {
    ExpectVerdicts(PromisesOf(kWritable),
                   {
                       {type, 0, 0, 1, kNbdOk},
                       {type, 0, kSize - 1, 1, kNbdOk},
                       {type, 0, kSize - 4096, 4096, kNbdOk},
                       {type, 0, kSize - 4096, 4097, past_end},
                       {type, 0, kSize - 1, 2, past_end},
                       {type, 0, kSize, 1, past_end},
                       {type, 0, kSize + 1, 1, past_end},
                       {type, 0, kSize + 1, 0, past_end},
                       {type, 0, uint64_t{1} << 63, 1, past_end},
                       {type, 0, UINT64_MAX, 0, past_end},
                   },
                   "64 MiB");
  }
}

// offset + length wraps around to something small.
TEST(ValidateRequest, IsNotFooledByASumBeyond64Bits) {
  for (const auto& [type, past_end] : kRanged) {
    ExpectVerdicts(PromisesOf(kWritable),
                   {
                       {type, 0, UINT64_MAX, 1, past_end},
                       {type, 0, UINT64_MAX, 2, past_end},
                       {type, 0, UINT64_MAX - 511, 512, past_end},
                       {type, 0, UINT64_MAX - 511, 1024, past_end},
                       {type, 0, UINT64_MAX - kSize,
                        static_cast<uint32_t>(kSize / 2), past_end},
                       {type, 0, 0 - uint64_t{nbdtest::kLongestRequest},
                        nbdtest::kLongestRequest, past_end},
                       {type, 0, uint64_t{1} << 63, 512, past_end},
                   },
                   "64 MiB");
  }
}

// Lengths of more than 32 bits are for headers to come, and must be safe by
// then.
TEST(ValidateRequest, IsNotFooledByALengthOf64Bits) {
  for (const uint16_t type : {kCmdTrim, kCmdCache, kCmdBlockStatus}) {
    ExpectVerdicts(PromisesOf(kWritable),
                   {
                       {type, 0, 1, UINT64_MAX, kNbdEinval},
                       {type, 0, 4096, UINT64_MAX - 4095, kNbdEinval},
                       {type, 0, kSize - 1, UINT64_MAX, kNbdEinval},
                       {type, 0, 0, uint64_t{1} << 32, kNbdEinval},
                   },
                   "64 MiB");
  }
  ExpectVerdicts(PromisesOf(kWritable),
                 {{kCmdWriteZeroes, 0, 4096, UINT64_MAX - 4095, kNbdEnospc},
                  {kCmdWrite, 0, 4096, UINT64_MAX - 4095, kNbdEinval},
                  {kCmdRead, 0, 4096, UINT64_MAX - 4095, kNbdEinval}},
                 "64 MiB");
}

TEST(ValidateRequest, ServesAnExportOfAnySize) {
  for (const uint64_t size : {uint64_t{1}, uint64_t{511}, uint64_t{1} << 32,
                              (uint64_t{1} << 63) - 1, UINT64_MAX}) {
    for (const auto& [type, past_end] : kRanged) {
      std::vector<Row> rows = {{type, 0, 0, 1, kNbdOk},
                               {type, 0, size - 1, 1, kNbdOk}};
      if (size != UINT64_MAX) {
        rows.push_back({type, 0, size, 1, past_end});
        rows.push_back({type, 0, size - 1, 2, past_end});
      }
      // The last byte of all cannot be inside: its end would need 65 bits.
      rows.push_back({type, 0, UINT64_MAX, 1, past_end});
      ExpectVerdicts(PromisesOf(kWritable, size), rows,
                     std::to_string(size) + " bytes");
    }
  }
}

TEST(ValidateRequest, AnEmptyExportHasNothingButEmptyRequests) {
  for (const auto& [type, past_end] : kRanged) {
    ExpectVerdicts(
        PromisesOf(kWritable, 0),
        {{type, 0, 0, 0, type == kCmdBlockStatus ? kNbdEinval : kNbdOk},
         {type, 0, 0, 1, past_end},
         {type, 0, 1, 0, past_end}},
        "an empty export");
  }
  EXPECT_EQ(Validate(PromisesOf(kWritable, 0), kCmdFlush, 0, 0, 0), kNbdOk);
}

TEST(ValidateRequest, LetsEmptyRequestsPassButNoEmptyBlockStatus) {
  for (const Session& session : {kWritable, kReadOnly}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, kSize / 2, kSize}) {
      const uint32_t writing = session.read_only ? kNbdEperm : kNbdOk;
      ExpectVerdicts(PromisesOf(session),
                     {
                         {kCmdRead, 0, offset, 0, kNbdOk},
                         {kCmdWrite, 0, offset, 0, writing},
                         {kCmdTrim, 0, offset, 0, writing},
                         {kCmdCache, 0, offset, 0, kNbdOk},
                         {kCmdWriteZeroes, 0, offset, 0, writing},
                         {kCmdBlockStatus, 0, offset, 0, kNbdEinval},
                     },
                     session.name);
    }
  }
}

TEST(ValidateRequest, AFlushHasNeitherOffsetNorLength) {
  for (const Session& session : kSessions) {
    ExpectVerdicts(PromisesOf(session),
                   {
                       {kCmdFlush, 0, 0, 0, kNbdOk},
                       {kCmdFlush, nbdtest::kCmdFlagFua, 0, 0, kNbdOk},
                       {kCmdFlush, 0, 1, 0, kNbdEinval},
                       {kCmdFlush, 0, 0, 1, kNbdEinval},
                       {kCmdFlush, 0, 0, 4096, kNbdEinval},
                       {kCmdFlush, 0, 512, 512, kNbdEinval},
                       {kCmdFlush, 0, UINT64_MAX, UINT32_MAX, kNbdEinval},
                   },
                   session.name);
  }
}

TEST(ValidateRequest, LimitsReadsAndWritesToTheMaximumPayload) {
  const uint64_t max = nbdtest::kLongestRequest;
  for (const Session& session : kSessions) {
    // NBD_EOVERFLOW is for clients that know it, which those with structured
    // replies do.
    const uint32_t read_too_long =
        session.structured ? kNbdEoverflow : kNbdEinval;
    ExpectVerdicts(
        PromisesOf(session),
        {
            {kCmdRead, 0, 0, max, kNbdOk},
            {kCmdRead, 0, 1, max, kNbdOk},
            {kCmdRead, 0, 0, max + 1, read_too_long},
            {kCmdRead, 0, 0, kSize, read_too_long},
            // Past the end comes first: no smaller read there would do.
            {kCmdRead, 0, 0, kSize + 1, kNbdEinval},
        },
        session.name);
    if (session.structured) {
      ExpectVerdicts(
          PromisesOf(session),
          {{kCmdRead, nbdtest::kCmdFlagDf, 0, nbdtest::kMaxPayload, kNbdOk},
           {kCmdRead, nbdtest::kCmdFlagDf, 0, nbdtest::kMaxPayload + 1,
            kNbdEoverflow},
           {kCmdRead, nbdtest::kCmdFlagDf, 0, max + 1, kNbdEoverflow}},
          session.name);
    }
    const uint32_t write = session.read_only ? kNbdEperm : kNbdOk;
    const uint32_t write_too_long = session.read_only ? kNbdEperm : kNbdEinval;
    ExpectVerdicts(PromisesOf(session),
                   {
                       {kCmdWrite, 0, 0, max, write},
                       {kCmdWrite, 0, 0, max + 1, write_too_long},
                       {kCmdWrite, 0, 0, UINT32_MAX, write_too_long},
                   },
                   session.name);
  }
}

// Only a payload has a limit.
TEST(ValidateRequest, DoesNotLimitRequestsWithoutPayload) {
  const uint64_t size = uint64_t{8} << 30;
  for (const uint16_t type :
       {kCmdTrim, kCmdCache, kCmdWriteZeroes, kCmdBlockStatus}) {
    ExpectVerdicts(PromisesOf(kWritable, size),
                   {{type, 0, 0, nbdtest::kLongestRequest + 1, kNbdOk},
                    {type, 0, 0, UINT32_MAX, kNbdOk},
                    {type, 0, size - UINT32_MAX, UINT32_MAX, kNbdOk}},
                   "8 GiB");
  }
}

// "It SHOULD return NBD_EPERM if it receives a write zeroes request on a
// read-only export", whatever else there is to say of the request.
TEST(ValidateRequest, AReadOnlyExportRefusesWhatWritesWhereverItWrites) {
  for (const Session& session : {kReadOnly, kReadOnlySimple}) {
    for (const uint16_t type : {kCmdWrite, kCmdTrim, kCmdWriteZeroes}) {
      ExpectVerdicts(PromisesOf(session),
                     {
                         {type, 0, 0, 512, kNbdEperm},
                         {type, nbdtest::kCmdFlagFua, 0, 512, kNbdEperm},
                         {type, 0, kSize, 512, kNbdEperm},
                         {type, 0, UINT64_MAX, 512, kNbdEperm},
                         {type, 0, 0, UINT32_MAX, kNbdEperm},
                     },
                     session.name);
    }
  }
}

TEST(ValidateRequest, ABlockStatusWithoutContextIsRefusedWhateverElseIsRight) {
  for (const Session& session :
       {kNoContext, kWritableSimple, kReadOnlySimple}) {
    ExpectVerdicts(
        PromisesOf(session),
        {
            {kCmdBlockStatus, 0, 0, 512, kNbdEinval},
            {kCmdBlockStatus, nbdtest::kCmdFlagReqOne, 0, 512, kNbdEinval},
            {kCmdBlockStatus, 0, 0, kSize, kNbdEinval},
        },
        session.name);
  }
}

// -- Extended headers

// As the negotiation advertises them with a context.
Promises ExtendedPromises(uint64_t size = kSize) {
  Promises promises = PromisesOf(kWritable, size);
  promises.headers = Headers::kExtended;
  promises.transmission_flags |= nbdtest::kBlockStatusPayload;
  return promises;
}

uint32_t ValidateExtended(const nbdtest::Request& request,
                          const Promises& promises = ExtendedPromises()) {
  const Verdict verdict = ValidateRequest(
      *kExtended.Decode(nbdtest::ExtendedRequestMessage(request)), promises);
  EXPECT_EQ(verdict.error == NBD_SUCCESS, verdict.sentence[0] == '\0')
      << "the sentence is '" << verdict.sentence << "'";
  return verdict.error;
}

// "the flag will trigger an NBD_EINVAL error unless the command documents an
// optional payload form".
TEST(ValidateRequest, WithExtendedHeadersOnlyAWriteHasAPayload) {
  for (const uint16_t type : {kCmdRead, kCmdWrite, kCmdFlush, kCmdTrim,
                              kCmdCache, kCmdWriteZeroes, kCmdBlockStatus}) {
    const uint64_t length = type == kCmdFlush ? 0 : 512;
    EXPECT_EQ(ValidateExtended({.type = type, .length = length}), kNbdOk)
        << type;
    EXPECT_EQ(ValidateExtended({.type = type,
                                .flags = nbdtest::kCmdFlagPayloadLen,
                                .length = length}),
              type == kCmdWrite ? kNbdOk : kNbdEinval)
        << type;
  }
}

TEST(ValidateRequest, WithExtendedHeadersTakesLengthsOf64Bits) {
  const uint64_t size = (uint64_t{1} << 63) - 1;
  const Promises promises = ExtendedPromises(size);
  for (const uint16_t type :
       {kCmdTrim, kCmdCache, kCmdWriteZeroes, kCmdBlockStatus}) {
    const uint32_t past_end = type == kCmdWriteZeroes ? kNbdEnospc : kNbdEinval;
    EXPECT_EQ(ValidateExtended({.type = type, .length = size}, promises),
              kNbdOk);
    EXPECT_EQ(ValidateExtended({.type = type, .offset = 1, .length = size - 1},
                               promises),
              kNbdOk);
    for (const uint64_t offset : {uint64_t{1}, size, UINT64_MAX}) {
      for (const uint64_t length :
           {size, UINT64_MAX, UINT64_MAX - offset + 1}) {
        EXPECT_EQ(
            ValidateExtended({.type = type, .offset = offset, .length = length},
                             promises),
            past_end)
            << type << ": " << length << " at " << offset;
      }
    }
  }
}

TEST(StatusPayload, BecomesTheRequestWithoutIt) {
  const Promises promises = ExtendedPromises();
  const Request request = *kExtended.Decode(nbdtest::ExtendedRequestMessage(
      {.type = kCmdBlockStatus,
       .flags = nbdtest::kCmdFlagPayloadLen | nbdtest::kCmdFlagReqOne,
       .offset = 512,
       .length = kStatusPayloadBytes,
       .cookie = 7}));
  ASSERT_TRUE(HasStatusPayload(request, promises));
  const Request plain = TakeStatusPayload(
      request,
      nbdtest::StatusPayload(kSize - 512, std::vector{kBaseAllocationId}));
  EXPECT_EQ(plain.flags, nbdtest::kCmdFlagReqOne);
  EXPECT_EQ(plain.offset, 512u);
  EXPECT_EQ(plain.sent_offset, 512u);
  EXPECT_EQ(plain.length, kSize - 512);
  EXPECT_EQ(plain.cookie, 7u);
  EXPECT_EQ(PayloadBytes(plain), 0u);
  EXPECT_EQ(ValidateRequest(plain, promises).error, NBD_SUCCESS);
  for (const uint32_t id : {0u, 2u, UINT32_MAX}) {
    EXPECT_EQ(
        ValidateRequest(TakeStatusPayload(request, nbdtest::StatusPayload(
                                                       512, std::vector{id})),
                        promises)
            .error,
        NBD_EINVAL)
        << id;
  }
}

TEST(StatusPayload, IsTakenOnlyWhereItWasOfferedAndIsComplete) {
  const auto taken = [](uint16_t type, uint64_t length, unsigned lacking = 0) {
    Promises promises = ExtendedPromises();
    promises.transmission_flags =
        static_cast<uint16_t>(promises.transmission_flags & ~lacking);
    return HasStatusPayload(*kExtended.Decode(nbdtest::ExtendedRequestMessage(
                                {.type = type,
                                 .flags = nbdtest::kCmdFlagPayloadLen,
                                 .length = length})),
                            promises);
  };
  EXPECT_TRUE(taken(kCmdBlockStatus, 12));
  EXPECT_FALSE(taken(kCmdBlockStatus, 12, nbdtest::kBlockStatusPayload));
  EXPECT_FALSE(taken(kCmdTrim, 12));
  for (const uint64_t length : {0, 8, 11, 13, 16}) {
    EXPECT_FALSE(taken(kCmdBlockStatus, length)) << length;
  }
}

}  // namespace
}  // namespace nbdinetd
