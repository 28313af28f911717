// The fuzz targets' checkers find what they are there for: each is given a
// server's answer that is right, and then the same answer with one thing wrong.

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "fuzz/input.h"
#include "fuzz/negotiation_checker.h"
#include "fuzz/simulation.h"
#include "fuzz/storage.h"
#include "fuzz/transmission_checker.h"
#include "support/wire.h"

namespace nbdfuzz {
namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

constexpr uint64_t kSize = 1 << 20;  // of an input without settings
constexpr uint16_t kFlags = kHasFlags | kSendFlush | kSendFua | kSendTrim |
                            kSendWriteZeroes | kSendCache | kSendFastZero;

// ---- Transmission ----

// A server that says what the test wants it to say.
class Served {
 public:
  // `cut` bytes are missing at the end of the requests.
  explicit Served(std::vector<nbdtest::Request> requests, bool structured,
                  size_t cut = 0)
      : Served(Stream(requests, cut), structured, /*extended=*/false) {}
  // The same with extended headers, whose requests come with their payloads.
  explicit Served(const std::string& stream)
      : Served(stream, /*structured=*/true, /*extended=*/true) {}

  Served(const std::string& stream, bool structured, bool extended)
      : simulation_(input_, stream),
        storage_(input_, simulation_),
        checker_({.size = kSize,
                  .flags = static_cast<uint16_t>(
                      kFlags | (structured ? kSendDf : 0) |
                      (extended ? kBlockStatusPayload : 0)),
                  .structured = structured,
                  .extended = extended,
                  .block_status = true},
                 simulation_, storage_) {
    std::string all(simulation_.stream().size(), '\0');
    simulation_.Read(absl::MakeSpan(all.data(), all.size()));
  }

  Served& Say(std::string bytes) {
    const iovec piece = {bytes.data(), bytes.size()};
    simulation_.Write(absl::MakeConstSpan(&piece, 1));
    return *this;
  }
  void End(int status = kExitOk) { checker_.Finish(status); }

  std::string Bytes(uint64_t offset, size_t length) {
    std::string bytes(length, '\0');
    storage_.Read(bytes.data(), length, static_cast<int64_t>(offset),
                  /*wait=*/true);
    return bytes;
  }
  Storage& storage() { return storage_; }

 private:
  static std::string Stream(const std::vector<nbdtest::Request>& requests,
                            size_t cut) {
    std::string stream;
    for (nbdtest::Request request : requests) {
      stream += RequestMessage(request);
      if (request.type == kCmdWrite) stream.append(request.length, 'w');
    }
    stream.resize(stream.size() - cut);
    return stream;
  }

  const Input input_;
  Simulation simulation_;
  Storage storage_;
  TransmissionChecker checker_;
};

std::string Simple(uint64_t cookie, uint32_t error,
                   std::string_view data = {}) {
  return Writer()
      .U32(kSimpleReplyMagic)
      .U32(error)
      .U64(cookie)
      .Raw(data)
      .bytes();
}

std::string Chunk(uint64_t cookie, uint16_t type, bool done,
                  std::string_view payload) {
  return Writer()
      .U32(kStructuredReplyMagic)
      .U16(done ? kReplyFlagDone : 0)
      .U16(type)
      .U64(cookie)
      .String32(payload)
      .bytes();
}

std::string Data(uint64_t cookie, uint64_t offset, std::string_view data,
                 bool done) {
  return Chunk(cookie, kReplyOffsetData, done,
               Writer().U64(offset).Raw(data).bytes());
}

nbdtest::Request ReadOf(uint64_t offset, uint32_t length, uint64_t cookie = 7) {
  return {.offset = offset, .length = length, .cookie = cookie};
}

TEST(TransmissionChecker, TakesWhatIsRight) {
  Served simple({ReadOf(512, 512)}, false);
  simple.Say(Simple(7, 0, simple.Bytes(512, 512))).End();
  Served structured({ReadOf(0, 8192)}, true);
  structured.Say(Data(7, 4096, structured.Bytes(4096, 4096), false))
      .Say(Data(7, 0, structured.Bytes(0, 4096), true))
      .End();
  Served refused({ReadOf(kSize, 1)}, false);
  refused.Say(Simple(7, kNbdEinval)).End();
}

TEST(TransmissionChecker, FindsWrongSimpleReplies) {
  Served served({ReadOf(512, 512)}, false);
  const std::string good = served.Bytes(512, 512);
  EXPECT_THROW(served.End(), BrokenConversation) << "no reply";
  EXPECT_THROW(served.Say(Simple(8, 0, good)), BrokenConversation) << "cookie";
}

TEST(TransmissionChecker, FindsAMagic) {
  Served served({ReadOf(512, 512)}, false);
  EXPECT_THROW(served.Say(std::string(16, 'x')), BrokenConversation);
}

TEST(TransmissionChecker, FindsWrongBytes) {
  Served served({ReadOf(512, 512)}, false);
  std::string bytes = served.Bytes(512, 512);
  bytes[511] = static_cast<char>(bytes[511] + 1);
  EXPECT_THROW(served.Say(Simple(7, 0, bytes)), BrokenConversation);
}

TEST(TransmissionChecker, FindsASecondReply) {
  Served served({ReadOf(512, 512)}, false);
  served.Say(Simple(7, 0, served.Bytes(512, 512)));
  EXPECT_THROW(served.Say(Simple(7, 0)), BrokenConversation);
}

TEST(TransmissionChecker, FindsAnErrorForNoReason) {
  Served served({ReadOf(512, 512)}, false);
  EXPECT_THROW(served.Say(Simple(7, kNbdEio)), BrokenConversation);
}

TEST(TransmissionChecker, FindsSuccessThatMustFail) {
  Served served({{.type = kCmdTrim, .offset = kSize, .length = 1, .cookie = 7}},
                false);
  EXPECT_THROW(served.Say(Simple(7, 0)), BrokenConversation);
}

TEST(TransmissionChecker, FindsTheOtherStyle) {
  Served served({ReadOf(0, 512)}, true);
  EXPECT_THROW(served.Say(Simple(7, 0, served.Bytes(0, 512))),
               BrokenConversation);
}

TEST(TransmissionChecker, FindsChunksThatOverlapOrLeaveOut) {
  Served overlapping({ReadOf(0, 8192)}, true);
  overlapping.Say(Data(7, 0, overlapping.Bytes(0, 4096), false));
  EXPECT_THROW(
      overlapping.Say(Data(7, 4095, overlapping.Bytes(4095, 4097), true)),
      BrokenConversation);
}

TEST(TransmissionChecker, FindsAGap) {
  Served served({ReadOf(0, 8192)}, true);
  EXPECT_THROW(served.Say(Data(7, 0, served.Bytes(0, 4096), true)),
               BrokenConversation);
}

TEST(TransmissionChecker, FindsAHoleWhereThereIsData) {
  Served served({ReadOf(0, 4096)}, true);
  EXPECT_THROW(served.Say(Chunk(7, kReplyOffsetHole, true,
                                Writer().U64(0).U32(4096).bytes())),
               BrokenConversation);
}

TEST(TransmissionChecker, FindsAWriteThatIsNotWritten) {
  Served served({{.type = kCmdWrite, .offset = 0, .length = 16, .cookie = 7}},
                false);
  EXPECT_THROW(served.Say(Simple(7, 0)), BrokenConversation);
}

TEST(TransmissionChecker, FindsAChangeThatNobodyAskedFor) {
  Served served({{.type = kCmdWrite, .offset = 0, .length = 16, .cookie = 7}},
                false);
  EXPECT_THROW(served.storage().Write("wwww", 14, false), BrokenConversation);
}

TEST(TransmissionChecker, FindsAWriteOfBytesThatTheClientHasNotSent) {
  Served served({{.type = kCmdWrite, .offset = 0, .length = 16, .cookie = 7}},
                false, /*cut=*/11);
  served.storage().Write("wwwww", 0, /*durable=*/false);
  EXPECT_THROW(served.storage().Write("wwww", 4, false), BrokenConversation);
  EXPECT_THROW(served.storage().Write("wwww", 8, false), BrokenConversation);
}

TEST(TransmissionChecker, KnowsAWriteFromOneThatIsCutBehindIt) {
  Served served({{.type = kCmdWrite, .offset = 0, .length = 16, .cookie = 7},
                 {.type = kCmdWrite, .offset = 0, .length = 16, .cookie = 8}},
                false, /*cut=*/11);
  served.storage().Write("wwww", 12, /*durable=*/false);
}

TEST(TransmissionChecker, FindsAFlushThatIsNone) {
  Served served({{.type = kCmdWrite,
                  .flags = kCmdFlagFua,
                  .offset = 0,
                  .length = 4,
                  .cookie = 7}},
                false);
  served.storage().Write("wwww", 0, /*durable=*/false);
  EXPECT_THROW(served.Say(Simple(7, 0)), BrokenConversation);
}

TEST(TransmissionChecker, FindsBlockStatusThatLies) {
  const nbdtest::Request request = {
      .type = kCmdBlockStatus, .offset = 0, .length = 4096, .cookie = 7};
  const auto status = [](uint32_t length, uint32_t state) {
    return Chunk(7, kReplyBlockStatus, true,
                 Writer().U32(1).U32(length).U32(state).bytes());
  };
  Served good({request}, true);
  good.Say(status(8192, 0)).End();
  EXPECT_THROW(Served({request}, true).Say(status(4096, kStateZero)),
               BrokenConversation);
}

// ---- Extended headers ----

std::string ExtendedChunk(uint64_t offset, uint16_t type,
                          std::string_view payload) {
  return Writer()
      .U32(kExtendedReplyMagic)
      .U16(kReplyFlagDone)
      .U16(type)
      .U64(7)
      .U64(offset)
      .U64(payload.size())
      .Raw(payload)
      .bytes();
}

std::string Extended(uint16_t type, uint16_t flags, uint64_t length,
                     std::string_view payload = {}) {
  return ExtendedRequestMessage({.type = type,
                                 .flags = flags,
                                 .offset = 512,
                                 .length = length,
                                 .cookie = 7}) +
         std::string(payload);
}

std::string ErrorPayload(uint32_t error) {
  return Writer().U32(error).U16(0).bytes();
}

TEST(TransmissionChecker, TakesExtendedHeaders) {
  Served read(Extended(kCmdRead, 0, 512));
  read.Say(ExtendedChunk(512, kReplyOffsetData,
                         Writer().U64(512).Raw(read.Bytes(512, 512)).bytes()))
      .End();
  Served refused(Extended(kCmdTrim, kCmdFlagPayloadLen, 3, "xyz"));
  refused.Say(ExtendedChunk(512, kReplyError, ErrorPayload(kNbdEinval))).End();
  Served disconnected(Extended(kCmdTrim, kCmdFlagPayloadLen, kMaxPayload + 1));
  disconnected.End(kExitProtocol);
}

TEST(TransmissionChecker, FindsWrongExtendedHeaders) {
  const std::string read = Extended(kCmdRead, 0, 512);
  Served offset(read);
  const std::string data =
      Writer().U64(512).Raw(offset.Bytes(512, 512)).bytes();
  EXPECT_THROW(offset.Say(ExtendedChunk(0, kReplyOffsetData, data)),
               BrokenConversation);
  EXPECT_THROW(Served(read).Say(Chunk(7, kReplyOffsetData, true, data)),
               BrokenConversation);
  EXPECT_THROW(Served({ReadOf(512, 512)}, true)
                   .Say(ExtendedChunk(512, kReplyOffsetData, data)),
               BrokenConversation);
  EXPECT_THROW(Served(Extended(kCmdTrim, kCmdFlagPayloadLen, 3, "xyz"))
                   .Say(ExtendedChunk(512, kReplyNone, "")),
               BrokenConversation);
  EXPECT_THROW(
      Served(Extended(kCmdTrim, kCmdFlagPayloadLen, kMaxPayload + 1)).End(),
      BrokenConversation);
}

TEST(TransmissionChecker, FindsExtendedBlockStatusThatLies) {
  const auto served = [](uint32_t id) {
    const std::string payload = StatusPayload(4096, std::vector{id});
    return Extended(kCmdBlockStatus, kCmdFlagPayloadLen, payload.size(),
                    payload);
  };
  const auto status = [](uint32_t count, uint64_t length, uint64_t state) {
    return ExtendedChunk(
        512, kReplyBlockStatusExt,
        Writer().U32(1).U32(count).U64(length).U64(state).bytes());
  };
  Served(served(1)).Say(status(1, 8192, 0)).End();
  EXPECT_THROW(Served(served(1)).Say(status(2, 8192, 0)), BrokenConversation);
  EXPECT_THROW(Served(served(1)).Say(status(1, 8192, kStateZero)),
               BrokenConversation);
  EXPECT_THROW(Served(served(1)).Say(status(1, 8192, uint64_t{1} << 32)),
               BrokenConversation);
  EXPECT_THROW(Served(served(1)).Say(status(1, kSize, 0)), BrokenConversation);
  EXPECT_THROW(Served(served(2)).Say(status(1, 8192, 0)), BrokenConversation);
  EXPECT_THROW(
      Served(served(1)).Say(ExtendedChunk(
          512, kReplyBlockStatus, Writer().U32(1).U32(8192).U32(0).bytes())),
      BrokenConversation);
}

TEST(TransmissionChecker, FindsAnotherExitStatus) {
  Served served({ReadOf(512, 512)}, false);
  served.Say(Simple(7, 0, served.Bytes(512, 512)));
  EXPECT_THROW(served.End(kExitProtocol), BrokenConversation);
}

// ---- Negotiation ----

std::string OptionReply(uint32_t option, uint32_t type,
                        std::string_view payload = {}) {
  return Writer()
      .U64(kOptionReplyMagic)
      .U32(option)
      .U32(type)
      .String32(payload)
      .bytes();
}

// What a client says that lists the exports and leaves, and what is said to it.
void CheckList(std::string_view replies, int status = kExitOk) {
  NegotiationSetting setting;
  ServedExport disk;
  disk.name = "disk";
  disk.size = kSize;
  setting.exports.push_back(disk);
  const std::string client = Writer().U32(3).bytes() +
                             OptionMessage(kOptList, "") +
                             OptionMessage(kOptAbort, "");
  const std::string greeting =
      Writer().U64(kNbdMagic).U64(kIHaveOpt).U16(3).bytes();
  NegotiationOutcome outcome;
  outcome.exit_status = status;
  NegotiationChecker(setting, client, greeting + std::string(replies), outcome)
      .Check();
}

TEST(NegotiationChecker, TakesWhatIsRightAndFindsWhatIsNot) {
  const std::string disk =
      OptionReply(kOptList, kRepServer, Writer().String32("disk").bytes());
  const std::string other =
      OptionReply(kOptList, kRepServer, Writer().String32("other").bytes());
  const std::string ack = OptionReply(kOptList, kRepAck);
  const std::string bye = OptionReply(kOptAbort, kRepAck);
  CheckList(disk + ack + bye);
  EXPECT_THROW(CheckList(ack + bye), BrokenConversation);
  EXPECT_THROW(CheckList(other + ack + bye), BrokenConversation);
  EXPECT_THROW(CheckList(disk + ack), BrokenConversation);
  EXPECT_THROW(CheckList(disk + ack + bye + bye), BrokenConversation);
  EXPECT_THROW(CheckList(disk + OptionReply(kOptInfo, kRepAck) + bye),
               BrokenConversation);
  EXPECT_THROW(CheckList(disk + ack + bye, kExitProtocol), BrokenConversation);
}

}  // namespace
}  // namespace nbdfuzz
