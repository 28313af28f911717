// The handshake of the real program, over a socket pair: greeting, client flags
// and every option, well-formed and not. Peer holds the form of each reply
// against the specification; the tests here say what must be in it. The file is
// long because an option can be wrong in many ways, and all of them need the
// same few lines above.

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint64_t kImageSize = 1 << 20;

const std::vector<uint16_t> kNoInfos;
const std::vector<std::string> kAllocation = {"base:allocation"};

// A server for a fresh image, and the client's end of its stream.
class Handshake : public testing::Test {
 protected:
  // The arguments stand before the file's name.
  Peer& Start(std::vector<std::string> arguments = {}) {
    arguments.push_back(image_.path());
    session_.emplace(std::move(arguments));
    return session_->peer();
  }
  // Up to where options are expected.
  Peer& StartHaggling(std::vector<std::string> arguments = {}) {
    Peer& peer = Start(std::move(arguments));
    peer.Open();
    return peer;
  }
  Session& session() { return *session_; }
  TempImage& image() { return image_; }

  // The connection went on: an export can still be chosen, and it is served.
  void ExpectUsable(std::string_view name = {}) {
    Peer& peer = session_->peer();
    peer.Go(name);
    const Reply reply =
        peer.Transact({.type = kCmdRead, .offset = 512, .length = 1024});
    EXPECT_TRUE(HasError(reply, kNbdOk));
    EXPECT_TRUE(SameBytes(reply.data, Pattern(512, 1024)));
    session_->End();
  }

  // A hard disconnect: not another byte, and the status for a peer that broke
  // the protocol.
  void ExpectHardDisconnect(int status = kExitProtocol) {
    EXPECT_TRUE(SameBytes(session_->peer().ReceiveToEnd(), ""));
    EXPECT_TRUE(ExitedWith(session_->WaitForExit(), status));
  }

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  std::optional<Session> session_;
};

// What the server offers for a writable export, apart from the medium's own
// nature.
constexpr uint16_t kWritableFlags = kHasFlags | kSendFlush | kSendFua |
                                    kSendTrim | kSendWriteZeroes |
                                    kCanMultiConn | kSendCache | kSendFastZero;

uint16_t WithoutRotational(uint16_t flags) {
  return static_cast<uint16_t>(flags & ~kRotational);
}

// -- Greeting and client flags

TEST_F(Handshake, TheGreetingHasTheTwoMagicsAndExactlyTheTwoHandshakeFlags) {
  Peer& peer = Start();
  EXPECT_TRUE(SameBytes(peer.Receive(18), Bytes("NBDMAGICIHAVEOPT\0\3", 18)));
}

TEST_F(Handshake, AfterTheGreetingTheServerIsSilentUntilTheClientSpeaks) {
  Peer& peer = Start();
  peer.ReceiveGreeting();
  peer.ShutdownWrite();
  EXPECT_TRUE(SameBytes(peer.ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

TEST_F(Handshake, AMissingFileSendsNoByteToTheClientAndEndsWith66) {
  Session session({image().directory() + "/no-such-file"});
  EXPECT_TRUE(SameBytes(session.peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitNoInput));
  EXPECT_NE(session.WaitForExit().standard_error.find("no-such-file"),
            std::string::npos);
}

class ClientFlags : public Handshake,
                    public testing::WithParamInterface<int> {};

TEST_P(ClientFlags, AnUnknownFlagDropsTheConnection) {
  Peer& peer = Start();
  peer.ReceiveGreeting();
  peer.SendClientFlags(kClientFixedNewstyle | kClientNoZeroes |
                       1u << GetParam());
  ExpectHardDisconnect();
}

INSTANTIATE_TEST_SUITE_P(Bit, ClientFlags, testing::Range(2, 32),
                         testing::PrintToStringParamName());

// -- NBD_OPT_EXPORT_NAME

class ExportName : public Handshake {
 protected:
  // Ends option haggling by name and takes what comes before the first reply.
  std::pair<Bytes, Bytes> Choose(uint32_t client_flags, std::string_view name,
                                 size_t reserved_bytes) {
    Peer& peer = Start();
    peer.ReceiveGreeting();
    peer.SendClientFlags(client_flags);
    peer.SendOption(kOptExportName, name);
    const Bytes info = peer.Receive(10);
    const Bytes reserved = peer.Receive(reserved_bytes);
    const Reply reply =
        peer.Transact({.type = kCmdRead, .offset = 0, .length = 512});
    EXPECT_TRUE(SameBytes(reply.data, Pattern(0, 512)));
    session().End();
    return {info, reserved};
  }
};

TEST_F(ExportName, TellsSizeAndFlagsAnd124ZeroesWithoutNoZeroes) {
  const auto [info, reserved] = Choose(kClientFixedNewstyle, "", 124);
  Reader reader(info);
  EXPECT_EQ(reader.U64(), kImageSize);
  EXPECT_EQ(WithoutRotational(reader.U16()), kWritableFlags);
  EXPECT_TRUE(SameBytes(reserved, Bytes(124, '\0')));
}

TEST_F(ExportName, LeavesTheZeroesOutWithNoZeroes) {
  const auto [info, reserved] =
      Choose(kClientFixedNewstyle | kClientNoZeroes, "", 0);
  Reader reader(info);
  EXPECT_EQ(reader.U64(), kImageSize);
  EXPECT_EQ(WithoutRotational(reader.U16()), kWritableFlags);
}

TEST_F(ExportName, ServesAClientThatDoesNotKnowFixedNewstyle) {
  const auto [info, reserved] = Choose(0, "", 124);
  EXPECT_TRUE(SameBytes(reserved, Bytes(124, '\0')));
}

TEST_F(ExportName, NoZeroesAloneIsHonouredToo) {
  const auto [info, reserved] = Choose(kClientNoZeroes, "", 0);
  EXPECT_EQ(Reader(info).U64(), kImageSize);
}

TEST_F(ExportName, AnyNameMeansTheSingleFileWhenNoNameIsConfigured) {
  const auto [info, reserved] = Choose(kClientFixedNewstyle | kClientNoZeroes,
                                       "some disk \xc3\xa4\xe2\x82\xac", 0);
  EXPECT_EQ(Reader(info).U64(), kImageSize);
}

TEST_F(ExportName, ANameOfTheGreatestLengthIsAccepted) {
  const auto [info, reserved] =
      Choose(kClientFixedNewstyle | kClientNoZeroes, Bytes(kMaxString, 'n'), 0);
  EXPECT_EQ(Reader(info).U64(), kImageSize);
}

TEST_F(ExportName, TheConfiguredNameAndTheEmptyNameAreServed) {
  for (const char* name : {"disk", ""}) {
    Peer& peer = StartHaggling({"-e", "disk"});
    peer.SendOption(kOptExportName, name);
    EXPECT_EQ(Reader(peer.Receive(10)).U64(), kImageSize) << name;
    session().End();
  }
}

TEST_F(ExportName, AnUnknownNameTerminatesTheSessionWithoutAByte) {
  Peer& peer = StartHaggling({"-e", "disk"});
  peer.SendOption(kOptExportName, "another");
  EXPECT_TRUE(SameBytes(peer.ReceiveToEnd(), ""));
  // Asking for what is not there breaks no rule, but there is no way to go on
  // either.
  EXPECT_TRUE(
      ExitedWithOneOf(session().WaitForExit(), {kExitOk, kExitProtocol}));
}

TEST_F(ExportName, TheFlagsAreThoseOfNbdInfoExport) {
  Peer& asking = StartHaggling();
  const OptionAnswer answer =
      asking.Negotiate(kOptInfo, InfoPayload("", kNoInfos));
  const ExportInfo info = ParseInfo(answer);
  asking.SendOption(kOptExportName, "");
  const Bytes bytes = asking.Receive(10);
  Reader reader(bytes);
  EXPECT_EQ(reader.U64(), info.size);
  EXPECT_EQ(reader.U16(), info.flags);
  session().End();
}

TEST_F(ExportName, StructuredRepliesAndContextsStayNegotiated) {
  Peer& peer = StartHaggling();
  peer.NegotiateStructuredReplies();
  peer.SelectAllocationContext("disk");
  peer.SendOption(kOptExportName, "disk");
  const Bytes bytes = peer.Receive(10);
  Reader reader(bytes);
  reader.U64();
  EXPECT_NE(reader.U16() & kSendDf, 0);
  const Reply read = peer.Transact({.type = kCmdRead, .length = 4096});
  EXPECT_TRUE(read.structured);
  const Reply status = peer.Transact({.type = kCmdBlockStatus, .length = 4096});
  EXPECT_TRUE(HasError(status, kNbdOk));
  session().End();
}

// Names that are no strings in the sense of the section "Conventions".
struct BadName {
  const char* word;
  Bytes name;
};

std::vector<BadName> BadNames() {
  return {{"OfOneByteMoreThanTheGreatestLength", Bytes(kMaxString + 1, 'n')},
          {"WithNulAtTheEnd", Bytes("disk\0", 5)},
          {"WithNulInside", Bytes("di\0sk", 5)},
          {"OfOneNul", Bytes("\0", 1)},
          {"WithALoneContinuationByte", "disk\x80"},
          {"WithACutSequence", "disk\xc3"},
          {"WithACutSequenceOfThree", "\xe2\x82"},
          {"WithACutSequenceOfFour", "\xf0\x9f\x92 disk"},
          {"WithAnOverlongSlash", "\xc0\xaf"},
          {"WithAnOverlongSequenceOfThree", "\xe0\x80\xaf"},
          {"WithAnOverlongSequenceOfFour", "\xf0\x80\x80\xaf"},
          {"WithAnOverlongNul", "\xc0\x80"},
          {"WithASurrogate", "\xed\xa0\x80"},
          {"BeyondTheLastCodePoint", "\xf4\x90\x80\x80"},
          {"WithAByteThatUtf8NeverHas", "\xff"},
          {"InLatin1", "K\xe4se"}};
}

std::string WordOf(const testing::TestParamInfo<BadName>& info) {
  return info.param.word;
}

class InvalidName : public Handshake,
                    public testing::WithParamInterface<BadName> {};

TEST_P(InvalidName, InExportNameEndsInAHardDisconnect) {
  Peer& peer = StartHaggling();
  peer.SendOption(kOptExportName, GetParam().name);
  ExpectHardDisconnect();
}

TEST_P(InvalidName, InGoAndInfoIsErrInvalidAndHagglingGoesOn) {
  Peer& peer = StartHaggling();
  for (uint32_t option : {kOptInfo, kOptGo}) {
    EXPECT_TRUE(
        HasType(peer.Negotiate(option, InfoPayload(GetParam().name, kNoInfos)),
                kRepErrInvalid));
  }
  ExpectUsable();
}

TEST_P(InvalidName, InMetaContextOptionsIsErrInvalidAndHagglingGoesOn) {
  Peer& peer = StartHaggling();
  peer.NegotiateStructuredReplies();
  for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    const Bytes payload = MetaContextPayload(GetParam().name, kAllocation);
    EXPECT_TRUE(HasType(peer.Negotiate(option, payload), kRepErrInvalid));
  }
  ExpectUsable();
}

INSTANTIATE_TEST_SUITE_P(Name, InvalidName, testing::ValuesIn(BadNames()),
                         WordOf);

TEST_F(Handshake, ANameOfTheGreatestLengthIsAcceptedByInfoAndGo) {
  Peer& peer = StartHaggling();
  const Bytes name(kMaxString, 'n');
  EXPECT_TRUE(
      HasType(peer.Negotiate(kOptInfo, InfoPayload(name, kNoInfos)), kRepAck));
  ExpectUsable(name);
}

// -- NBD_OPT_ABORT

TEST_F(Handshake, AbortIsAcknowledgedAndThenTheServerCloses) {
  Peer& peer = StartHaggling();
  EXPECT_TRUE(HasType(peer.Negotiate(kOptAbort), kRepAck));
  ExpectHardDisconnect(kExitOk);
}

TEST_F(Handshake, AbortWithDataIsAcknowledgedAllTheSame) {
  Peer& peer = StartHaggling();
  EXPECT_TRUE(HasType(peer.Negotiate(kOptAbort, "good bye"), kRepAck));
  ExpectHardDisconnect(kExitOk);
}

TEST_F(Handshake, AClientThatAbortsWithoutWaitingForTheReplyIsNoFault) {
  for (int i = 0; i < 20; ++i) {
    Peer& peer = StartHaggling();
    peer.SendOption(kOptAbort);
    peer.Close();
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
  }
}

// -- NBD_OPT_LIST

TEST_F(Handshake, ListNamesTheOneExport) {
  Peer& peer =
      StartHaggling({"-e", "disk \xc3\xa4", "--description=A disk for tests"});
  const OptionAnswer answer = peer.Negotiate(kOptList);
  EXPECT_TRUE(HasType(answer, kRepAck));
  const auto exports = ParseList(answer);
  ASSERT_EQ(exports.size(), 1u);
  EXPECT_EQ(exports[0].first, "disk \xc3\xa4");
  EXPECT_EQ(exports[0].second, "A disk for tests");
  ExpectUsable("disk \xc3\xa4");
}

TEST_F(Handshake, ListTellsANameUnderWhichTheFileCanBeOpened) {
  Peer& peer = StartHaggling();
  const OptionAnswer answer = peer.Negotiate(kOptList);
  EXPECT_TRUE(HasType(answer, kRepAck));
  const auto exports = ParseList(answer);
  ASSERT_EQ(exports.size(), 1u);
  EXPECT_EQ(exports[0].second, "");
  ExpectUsable(exports[0].first);
}

TEST_F(Handshake, ListWithDataIsErrInvalid) {
  Peer& peer = StartHaggling();
  const OptionAnswer answer = peer.Negotiate(kOptList, "x");
  EXPECT_TRUE(HasType(answer, kRepErrInvalid));
  EXPECT_TRUE(answer.replies.empty());
  EXPECT_TRUE(HasType(peer.Negotiate(kOptList), kRepAck));
  ExpectUsable();
}

TEST_F(Handshake, ThousandOptionsInARowAreAllAnswered) {
  Peer& peer = StartHaggling();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(HasType(peer.Negotiate(kOptList), kRepAck));
  }
  ExpectUsable();
}

// -- NBD_OPT_INFO and NBD_OPT_GO

TEST_F(Handshake, InfoTellsSizeAndFlagsOfAWritableExport) {
  Peer& peer = StartHaggling();
  const OptionAnswer answer =
      peer.Negotiate(kOptInfo, InfoPayload("", kNoInfos));
  ASSERT_TRUE(HasType(answer, kRepAck));
  const ExportInfo info = ParseInfo(answer);
  EXPECT_EQ(info.size, kImageSize);
  EXPECT_EQ(WithoutRotational(info.flags), kWritableFlags);
  ExpectUsable();
}

TEST_F(Handshake, AReadOnlyExportSaysSo) {
  for (const char* option : {"-r", "--readonly"}) {
    StartHaggling({option});
    const ExportInfo info = session().peer().Go();
    EXPECT_NE(info.flags & kReadOnly, 0);
    EXPECT_NE(info.flags & kHasFlags, 0);
    // NBD_FLAG_SEND_FAST_ZERO MUST be 0 without NBD_FLAG_SEND_WRITE_ZEROES.
    EXPECT_TRUE((info.flags & kSendWriteZeroes) != 0 ||
                (info.flags & kSendFastZero) == 0);
    session().End();
  }
}

TEST_F(Handshake, EveryInformationTypeIsSentWhenAskedFor) {
  Peer& peer = StartHaggling({"-e", "disk", "--description=A disk for tests"});
  const std::vector<uint16_t> infos = {kInfoBlockSize, kInfoDescription,
                                       kInfoName, kInfoExport};
  const ExportInfo info = peer.Go("", infos);
  EXPECT_EQ(info.size, kImageSize);
  EXPECT_EQ(info.name, "disk");
  EXPECT_EQ(info.description, "A disk for tests");
  EXPECT_TRUE(info.block_size.has_value());
  session().End();
}

TEST_F(Handshake, TheBlockSizesKeepTheRulesOfTheSpecification) {
  StartHaggling();
  const ExportInfo info =
      session().peer().Go("", std::vector<uint16_t>{kInfoBlockSize});
  ASSERT_TRUE(info.block_size.has_value());
  EXPECT_EQ(info.block_size->minimum, 1u);
  const uint32_t preferred = info.block_size->preferred;
  EXPECT_GE(preferred, 512u);
  EXPECT_EQ(preferred & (preferred - 1), 0u)
      << preferred << " is no power of 2";
  EXPECT_EQ(info.block_size->maximum_payload, kMaxPayload);
  EXPECT_LE(preferred, info.block_size->maximum_payload);
  session().End();
}

TEST_F(Handshake, TheNameToldByInfoIsTheNameInTheList) {
  Peer& peer = StartHaggling();
  const auto exports = ParseList(peer.Negotiate(kOptList));
  ASSERT_EQ(exports.size(), 1u);
  const std::vector<uint16_t> infos = {kInfoName, kInfoDescription};
  const ExportInfo info =
      ParseInfo(peer.Negotiate(kOptInfo, InfoPayload("", infos)));
  // May be left out where the client already used the canonical name.
  EXPECT_EQ(info.name.value_or(""), exports[0].first);
  EXPECT_EQ(info.description.value_or(""), exports[0].second);
  ExpectUsable();
}

TEST_F(Handshake, UnknownInformationRequestsAreIgnored) {
  Peer& peer = StartHaggling();
  const std::vector<uint16_t> infos = {4, 5, 0x7fff, 0xffff, kInfoExport};
  EXPECT_TRUE(
      HasType(peer.Negotiate(kOptInfo, InfoPayload("", infos)), kRepAck));
  EXPECT_EQ(peer.Go("", infos).size, kImageSize);
  session().End();
}

TEST_F(Handshake, AsManyInformationRequestsAsAnOptionCanCarryAreAccepted) {
  Peer& peer = StartHaggling();
  std::vector<uint16_t> infos;
  while (6 + 2 * infos.size() < kMaxOptionPayload) {
    infos.push_back(static_cast<uint16_t>(1000 + infos.size()));
  }
  EXPECT_EQ(InfoPayload("", infos).size(), kMaxOptionPayload);
  EXPECT_TRUE(
      HasType(peer.Negotiate(kOptInfo, InfoPayload("", infos)), kRepAck));
  ExpectUsable();
}

TEST_F(Handshake, GoGivesTheSameAnswersAsInfo) {
  const std::vector<std::vector<uint16_t>> requests = {
      {},
      {kInfoExport},
      {kInfoName},
      {kInfoDescription, kInfoBlockSize},
      {kInfoExport, kInfoName, kInfoDescription, kInfoBlockSize, 77}};
  for (const std::vector<uint16_t>& infos : requests) {
    for (bool structured : {false, true}) {
      Peer& peer = StartHaggling({"--description=text"});
      if (structured) peer.NegotiateStructuredReplies();
      const OptionAnswer answer =
          peer.Negotiate(kOptInfo, InfoPayload("name", infos));
      ASSERT_TRUE(HasType(answer, kRepAck));
      EXPECT_EQ(ParseInfo(answer), peer.Go("name", infos));
      session().End();
    }
  }
}

TEST_F(Handshake, InfoDoesNotEndHaggling) {
  Peer& peer = StartHaggling();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(
        HasType(peer.Negotiate(kOptInfo, InfoPayload("", kNoInfos)), kRepAck));
  }
  EXPECT_TRUE(HasType(peer.Negotiate(kOptList), kRepAck));
  ExpectUsable();
}

TEST_F(Handshake, AfterGoNoZeroesFollowWhateverTheClientFlagsAre) {
  for (uint32_t flags :
       {kClientFixedNewstyle, kClientFixedNewstyle | kClientNoZeroes}) {
    Peer& peer = Start();
    peer.ReceiveGreeting();
    peer.SendClientFlags(flags);
    ExpectUsable();
  }
}

TEST_F(Handshake,
       AnUnknownExportIsErrUnknownWithoutInformationAndHagglingGoesOn) {
  Peer& peer = StartHaggling({"-e", "disk"});
  const std::vector<uint16_t> infos = {kInfoName, kInfoBlockSize};
  for (uint32_t option : {kOptInfo, kOptGo, kOptInfo}) {
    for (const char* name : {"another", "dis", "disk2", "Disk"}) {
      const OptionAnswer answer =
          peer.Negotiate(option, InfoPayload(name, infos));
      EXPECT_TRUE(HasType(answer, kRepErrUnknown)) << name;
      EXPECT_TRUE(answer.replies.empty()) << name;
    }
  }
  ExpectUsable("disk");
}

TEST_F(Handshake, TheEmptyNameIsTheDefaultExport) {
  StartHaggling({"--exportname=disk"});
  ExpectUsable("");
}

TEST_F(Handshake, ExportsOfAnySizeAreToldToTheByte) {
  constexpr uint64_t kSizes[] = {0, 1, 511, 513, 4097, (uint64_t{1} << 40) + 1};
  for (uint64_t size : kSizes) {
    const TempImage sparse = TempImage::Sparse(size);
    Session session({sparse.path()});
    session.peer().Open();
    EXPECT_EQ(session.peer().Go().size, size);
    session.End();
  }
}

TEST_F(Handshake, DontFragmentIsOfferedOnlyAfterStructuredReplies) {
  Peer& peer = StartHaggling();
  const Bytes payload = InfoPayload("", kNoInfos);
  EXPECT_EQ(ParseInfo(peer.Negotiate(kOptInfo, payload)).flags & kSendDf, 0);
  peer.NegotiateStructuredReplies();
  EXPECT_NE(ParseInfo(peer.Negotiate(kOptInfo, payload)).flags & kSendDf, 0);
  EXPECT_NE(peer.Go().flags & kSendDf, 0);
  session().End();
}

// -- NBD_OPT_STRUCTURED_REPLY

TEST_F(Handshake, StructuredReplyChangesHowReadsAreAnswered) {
  for (bool structured : {false, true}) {
    Peer& peer = StartHaggling();
    if (structured) peer.NegotiateStructuredReplies();
    peer.Go();
    const Reply reply = peer.Transact({.type = kCmdRead, .length = 4096});
    EXPECT_TRUE(HasError(reply, kNbdOk));
    EXPECT_EQ(reply.structured, structured);
    session().End();
  }
}

TEST_F(Handshake, StructuredReplyWithDataIsErrInvalidAndNegotiatesNothing) {
  Peer& peer = StartHaggling();
  EXPECT_TRUE(
      HasType(peer.Negotiate(kOptStructuredReply, "x"), kRepErrInvalid));
  EXPECT_EQ(peer.Go().flags & kSendDf, 0);
  const Reply reply = peer.Transact({.type = kCmdRead, .length = 4096});
  EXPECT_FALSE(reply.structured);
  session().End();
}

TEST_F(Handshake, ASecondStructuredReplyIsErrInvalidAndChangesNothing) {
  Peer& peer = StartHaggling();
  peer.NegotiateStructuredReplies();
  EXPECT_TRUE(HasType(peer.Negotiate(kOptStructuredReply), kRepErrInvalid));
  EXPECT_NE(peer.Go().flags & kSendDf, 0);
  EXPECT_TRUE(peer.Transact({.type = kCmdRead, .length = 4096}).structured);
  session().End();
}

// -- NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT

std::vector<std::string> Names(const OptionAnswer& answer) {
  std::vector<std::string> names;
  for (const MetaContext& context : ParseMetaContexts(answer))
    names.push_back(context.name);
  return names;
}

class MetaContexts : public Handshake {
 protected:
  Peer& StartStructured(std::vector<std::string> arguments = {}) {
    Peer& peer = StartHaggling(std::move(arguments));
    peer.NegotiateStructuredReplies();
    return peer;
  }
  OptionAnswer Ask(uint32_t option, const std::vector<std::string>& queries,
                   std::string_view name = {}) {
    return session().peer().Negotiate(option,
                                      MetaContextPayload(name, queries));
  }
  // Enters transmission and says what the server answers to a block status
  // request.
  Reply BlockStatusAfterGo(std::string_view name = {}) {
    session().peer().Go(name);
    return session().peer().Transact({.type = kCmdBlockStatus, .length = 4096});
  }
};

TEST_F(MetaContexts, ListWithoutQueriesTellsEveryContextWithTheReservedId) {
  StartStructured();
  const OptionAnswer answer = Ask(kOptListMetaContext, {});
  EXPECT_TRUE(HasType(answer, kRepAck));
  EXPECT_EQ(Names(answer), kAllocation);
  EXPECT_EQ(ParseMetaContexts(answer).at(0).id, 0u);
  ExpectUsable();
}

TEST_F(MetaContexts, ListTakesTheNamespaceAsAWildcard) {
  StartStructured();
  const OptionAnswer answer = Ask(kOptListMetaContext, {"base:"});
  EXPECT_TRUE(HasType(answer, kRepAck));
  EXPECT_EQ(Names(answer), kAllocation);
  EXPECT_EQ(ParseMetaContexts(answer).at(0).id, 0u);
  ExpectUsable();
}

TEST_F(MetaContexts, ListTakesTheFullName) {
  StartStructured();
  EXPECT_EQ(Names(Ask(kOptListMetaContext, kAllocation)), kAllocation);
  ExpectUsable();
}

TEST_F(MetaContexts, AContextThatMatchesSeveralQueriesIsListedOnce) {
  StartStructured();
  EXPECT_EQ(Names(Ask(kOptListMetaContext,
                      {"base:allocation", "base:", "base:allocation"})),
            kAllocation);
  ExpectUsable();
}

TEST_F(MetaContexts, ListIsAnsweredBeforeStructuredRepliesToo) {
  StartHaggling();
  const OptionAnswer answer = Ask(kOptListMetaContext, {});
  // The specification leaves the server the choice.
  EXPECT_TRUE(answer.final_type == kRepAck ||
              answer.final_type == kRepErrInvalid);
  if (answer.ok()) {
    EXPECT_EQ(Names(answer), kAllocation);
  }
  ExpectUsable();
}

TEST_F(MetaContexts, SetSelectsAllocation) {
  Peer& peer = StartStructured();
  peer.SelectAllocationContext();
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdOk));
  session().End();
}

TEST_F(MetaContexts, SetSelectsAContextOnceHoweverOftenItIsNamed) {
  StartStructured();
  EXPECT_EQ(
      Names(Ask(kOptSetMetaContext, {"base:allocation", "base:allocation"})),
      kAllocation);
  ExpectUsable();
}

TEST_F(MetaContexts, SetWithoutQueriesSelectsNone) {
  StartStructured();
  const OptionAnswer answer = Ask(kOptSetMetaContext, {});
  EXPECT_TRUE(HasType(answer, kRepAck));
  EXPECT_TRUE(answer.replies.empty());
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdEinval));
  session().End();
}

TEST_F(MetaContexts, SetIgnoresTheWildcard) {
  StartStructured();
  const OptionAnswer answer = Ask(kOptSetMetaContext, {"base:"});
  EXPECT_TRUE(HasType(answer, kRepAck));
  EXPECT_TRUE(answer.replies.empty());
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdEinval));
  session().End();
}

TEST_F(MetaContexts, SetBeforeStructuredRepliesIsErrInvalid) {
  Peer& peer = StartHaggling();
  EXPECT_TRUE(HasType(Ask(kOptSetMetaContext, kAllocation), kRepErrInvalid));
  // In the right order it works.
  peer.NegotiateStructuredReplies();
  EXPECT_EQ(Names(Ask(kOptSetMetaContext, kAllocation)), kAllocation);
  ExpectUsable();
}

class QueryWithoutContext : public MetaContexts,
                            public testing::WithParamInterface<const char*> {};

TEST_P(QueryWithoutContext, IsIgnored) {
  StartStructured();
  for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    const OptionAnswer alone = Ask(option, {GetParam()});
    EXPECT_TRUE(HasType(alone, kRepAck));
    EXPECT_TRUE(alone.replies.empty());
    EXPECT_EQ(Names(Ask(option, {GetParam(), "base:allocation", GetParam()})),
              kAllocation);
  }
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdOk));
  session().End();
}

INSTANTIATE_TEST_SUITE_P(Query, QueryWithoutContext,
                         testing::Values("base:unknown", "base:allocation2",
                                         "base:alloc", "base:Allocation",
                                         "base: allocation",
                                         "qemu:dirty-bitmap:bitmap0",
                                         "qemu:", "x-local:", "x-local:thing",
                                         "nbd-server:none", "x-base:allocation",
                                         "Base:allocation", "base2:allocation",
                                         "bas:allocation"));

class QueryWithoutNamespace : public MetaContexts,
                              public testing::WithParamInterface<const char*> {
};

TEST_P(QueryWithoutNamespace, SelectsNothing) {
  StartStructured();
  for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    const OptionAnswer answer = Ask(option, {GetParam()});
    // Semantically invalid: to fail it or to ignore it is the server's choice.
    EXPECT_TRUE(answer.final_type == kRepAck ||
                answer.final_type == kRepErrInvalid)
        << OptionReplyName(answer.final_type);
    EXPECT_TRUE(answer.replies.empty());
  }
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdEinval));
  session().End();
}

INSTANTIATE_TEST_SUITE_P(Query, QueryWithoutNamespace,
                         testing::Values("", "base", "allocation", ":",
                                         ":allocation"));

TEST_F(MetaContexts, ThousandsOfQueriesAreAnswered) {
  StartStructured();
  for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    const std::vector<std::string> queries(6000, "x-a:b");
    ASSERT_LE(MetaContextPayload("", queries).size(), kMaxOptionPayload);
    const OptionAnswer answer = Ask(option, queries);
    EXPECT_TRUE(answer.final_type == kRepAck ||
                answer.final_type == kRepErrTooBig)
        << OptionReplyName(answer.final_type);
    EXPECT_TRUE(answer.replies.empty());
  }
  ExpectUsable();
}

TEST_F(MetaContexts, AnUnknownExportIsErrUnknown) {
  StartStructured({"-e", "disk"});
  for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    const OptionAnswer answer = Ask(option, kAllocation, "another");
    EXPECT_TRUE(HasType(answer, kRepErrUnknown));
    EXPECT_TRUE(answer.replies.empty());
    EXPECT_EQ(Names(Ask(option, kAllocation, "disk")), kAllocation);
  }
  EXPECT_TRUE(HasError(BlockStatusAfterGo("disk"), kNbdOk));
  session().End();
}

TEST_F(MetaContexts, ALaterSetReplacesTheSelection) {
  StartStructured();
  EXPECT_EQ(Names(Ask(kOptSetMetaContext, kAllocation)), kAllocation);
  EXPECT_TRUE(HasType(Ask(kOptSetMetaContext, {"x-local:thing"}), kRepAck));
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdEinval));
  session().End();
}

TEST_F(MetaContexts, TheSelectionCanBeMadeAnew) {
  Peer& peer = StartStructured();
  EXPECT_TRUE(HasType(Ask(kOptSetMetaContext, {}), kRepAck));
  for (int i = 0; i < 3; ++i) peer.SelectAllocationContext();
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdOk));
  session().End();
}

TEST_F(MetaContexts, ASetThatFailsTakesTheSelectionAwayToo) {
  struct Failure {
    const char* word;
    std::string payload;
    uint32_t error;
  };
  const std::vector<Failure> failures = {
      {"malformed", "x", kRepErrInvalid},
      {"unknown export", MetaContextPayload("another", kAllocation),
       kRepErrUnknown},
      {"too big", Bytes(kMaxOptionPayload + 1, 'x'), kRepErrTooBig}};
  for (const Failure& failure : failures) {
    Peer& peer = StartStructured({"-e", "disk"});
    EXPECT_EQ(Names(Ask(kOptSetMetaContext, kAllocation, "disk")), kAllocation);
    EXPECT_TRUE(HasType(peer.Negotiate(kOptSetMetaContext, failure.payload),
                        failure.error))
        << failure.word;
    EXPECT_TRUE(HasError(BlockStatusAfterGo("disk"), kNbdEinval))
        << failure.word;
    session().End();
  }
}

TEST_F(MetaContexts, ListDoesNotTouchTheSelection) {
  Peer& peer = StartStructured();
  peer.SelectAllocationContext();
  EXPECT_TRUE(HasType(Ask(kOptListMetaContext, {"x-local:"}), kRepAck));
  EXPECT_TRUE(
      HasType(peer.Negotiate(kOptListMetaContext, "x"), kRepErrInvalid));
  EXPECT_TRUE(HasError(BlockStatusAfterGo(), kNbdOk));
  session().End();
}

TEST_F(MetaContexts, ASelectionForAnotherExportNameDoesNotCount) {
  StartStructured();
  EXPECT_EQ(Names(Ask(kOptSetMetaContext, kAllocation, "one")), kAllocation);
  EXPECT_TRUE(HasError(BlockStatusAfterGo("two"), kNbdEinval));
  session().End();
}

TEST_F(MetaContexts, ASelectionForTheSameExportNameCounts) {
  Peer& peer = StartStructured();
  peer.SelectAllocationContext("one");
  EXPECT_TRUE(HasError(BlockStatusAfterGo("one"), kNbdOk));
  session().End();
}

// -- NBD_OPT_STARTTLS

TEST_F(Handshake, StartTlsIsErrUnsupAndKeepsWhatWasNegotiated) {
  Peer& peer = StartHaggling();
  peer.NegotiateStructuredReplies();
  peer.SelectAllocationContext();
  EXPECT_TRUE(HasType(peer.Negotiate(kOptStartTls), kRepErrUnsup));
  EXPECT_TRUE(HasType(peer.Negotiate(kOptStartTls), kRepErrUnsup));
  peer.Go();
  EXPECT_TRUE(HasError(peer.Transact({.type = kCmdBlockStatus, .length = 4096}),
                       kNbdOk));
  session().End();
}

TEST_F(Handshake, StartTlsWithDataIsAnErrorAndHagglingGoesOn) {
  Peer& peer = StartHaggling();
  const OptionAnswer answer = peer.Negotiate(kOptStartTls, "data");
  EXPECT_TRUE(answer.final_type == kRepErrInvalid ||
              answer.final_type == kRepErrUnsup)
      << OptionReplyName(answer.final_type);
  ExpectUsable();
}

// -- Unknown, oversize and malformed options

class UnknownOption : public Handshake,
                      public testing::WithParamInterface<uint32_t> {};

TEST_P(UnknownOption, IsErrUnsupWhateverItsPayloadAndTheNextIsUnderstood) {
  Peer& peer = StartHaggling();
  for (size_t size : {0, 1, 100, 65536, 65537, 1 << 20}) {
    // The payload looks like an option itself: a server that does not skip all
    // of it, or more than it, falls over the next message.
    Bytes payload;
    while (payload.size() < size) payload += OptionMessage(kOptAbort, "");
    payload.resize(size);
    EXPECT_TRUE(HasType(peer.Negotiate(GetParam(), payload), kRepErrUnsup))
        << size;
  }
  ExpectUsable();
}

INSTANTIATE_TEST_SUITE_P(Option, UnknownOption,
                         testing::Values(0u, kOptPeekExport, 12u, 255u, 256u,
                                         0x7fffffffu, 0x80000001u, 0xffffffffu),
                         testing::PrintToStringParamName());

class OversizeOption : public Handshake,
                       public testing::WithParamInterface<
                           std::tuple<std::pair<const char*, uint32_t>, int>> {
};

TEST_P(OversizeOption, IsErrTooBigAndTheNextIsUnderstood) {
  const auto [option, extra] = GetParam();
  Peer& peer = StartHaggling();
  if (option.second != kOptStructuredReply) peer.NegotiateStructuredReplies();
  const Bytes payload(kMaxOptionPayload + static_cast<size_t>(extra), '\0');
  EXPECT_TRUE(HasType(peer.Negotiate(option.second, payload), kRepErrTooBig));
  ExpectUsable();
}

INSTANTIATE_TEST_SUITE_P(
    Option, OversizeOption,
    testing::Combine(
        testing::Values(std::pair("Info", kOptInfo), std::pair("Go", kOptGo),
                        std::pair("ListMetaContext", kOptListMetaContext),
                        std::pair("SetMetaContext", kOptSetMetaContext)),
        testing::Values(1, 1 << 20)),
    [](const auto& tested) {
      return std::string(std::get<0>(tested.param).first) + "By" +
             std::to_string(std::get<1>(tested.param));
    });

TEST_F(Handshake,
       OversizeDataWithOptionsThatTakeNoneIsAnErrorAndHagglingGoesOn) {
  Peer& peer = StartHaggling();
  const Bytes payload(kMaxOptionPayload + 1, 'x');
  for (uint32_t option :
       {kOptList, kOptStructuredReply, kOptStartTls, kOptExtendedHeaders}) {
    const OptionAnswer answer = peer.Negotiate(option, payload);
    EXPECT_FALSE(answer.ok()) << option;
    EXPECT_TRUE(answer.replies.empty()) << option;
  }
  EXPECT_EQ(peer.Go().flags & kSendDf, 0);
  session().End();
}

struct Malformed {
  const char* word;
  Bytes payload;
};

std::string WordOfMalformed(const testing::TestParamInfo<Malformed>& info) {
  return info.param.word;
}

std::vector<Malformed> MalformedInfos() {
  const auto u16 = [](uint16_t value) { return Writer().U16(value).bytes(); };
  const auto u32 = [](uint32_t value) { return Writer().U32(value).bytes(); };
  return {
      {"Empty", ""},
      {"OneByte", Bytes(1, '\0')},
      {"CutInTheNameLength", Bytes(3, '\0')},
      {"OnlyTheNameLength", u32(0)},
      {"CutInTheCount", u32(0) + Bytes(1, '\0')},
      {"NameOneByteTooLong", u32(5) + "disk" + u16(0)},
      {"NameReachesIntoTheCount", u32(6) + "disk" + u16(0)},
      {"NameTakesTheRestButNoCount", u32(4) + "disk"},
      {"NameLengthHuge", u32(0xffffffff) + "disk" + u16(0)},
      {"NameLengthWrapsAround", u32(0xfffffffa) + "disk" + u16(0)},
      {"NameLengthNegative", u32(0x80000000) + "disk" + u16(0)},
      {"CountOneTooMany", u32(4) + "disk" + u16(2) + u16(kInfoName)},
      {"CountWithoutRequests", u32(4) + "disk" + u16(1)},
      {"CountHuge", u32(4) + "disk" + u16(0xffff) + u16(kInfoName)},
      {"CountOneTooFew",
       u32(4) + "disk" + u16(1) + u16(kInfoName) + u16(kInfoBlockSize)},
      {"TrailingRequestWithoutCount",
       u32(4) + "disk" + u16(0) + u16(kInfoName)},
      {"HalfARequest", u32(4) + "disk" + u16(1) + "\1"},
      {"OneTrailingByte", u32(4) + "disk" + u16(1) + u16(kInfoName) + "x"},
  };
}

class MalformedInfo : public Handshake,
                      public testing::WithParamInterface<Malformed> {};

TEST_P(MalformedInfo, IsErrInvalidAndHagglingGoesOn) {
  Peer& peer = StartHaggling();
  for (uint32_t option : {kOptInfo, kOptGo, kOptInfo}) {
    const OptionAnswer answer = peer.Negotiate(option, GetParam().payload);
    EXPECT_TRUE(HasType(answer, kRepErrInvalid));
    EXPECT_TRUE(answer.replies.empty());
  }
  ExpectUsable();
}

INSTANTIATE_TEST_SUITE_P(Payload, MalformedInfo,
                         testing::ValuesIn(MalformedInfos()), WordOfMalformed);

std::vector<Malformed> MalformedQueries() {
  const auto u32 = [](uint32_t value) { return Writer().U32(value).bytes(); };
  const Bytes name = u32(4) + "disk";
  const Bytes query = u32(15) + "base:allocation";
  return {
      {"Empty", ""},
      {"CutInTheNameLength", Bytes(3, '\0')},
      {"OnlyTheNameLength", u32(0)},
      {"NameWithoutCount", name},
      {"CutInTheCount", name + Bytes(3, '\0')},
      {"NameOneByteTooLong", u32(9) + "disk" + u32(0)},
      {"NameReachesIntoTheCount", u32(8) + "disk" + u32(0)},
      {"NameLengthHuge", u32(0xffffffff) + "disk" + u32(0)},
      {"NameLengthWrapsAround", u32(0xfffffffc) + "disk" + u32(0)},
      {"CountWithoutQueries", name + u32(1)},
      {"CountOneTooMany", name + u32(2) + query},
      {"CountHuge", name + u32(0xffffffff) + query},
      {"CountThatWrapsWhenMultipliedByFour", name + u32(0x40000001) + query},
      {"CutInTheQueryLength", name + u32(1) + Bytes(3, '\0')},
      {"QueryOneByteTooLong", name + u32(1) + u32(16) + "base:allocation"},
      {"QueryLengthHuge", name + u32(1) + u32(0xffffffff) + "base:allocation"},
      {"SecondQueryTooLong",
       name + u32(2) + query + u32(16) + "base:allocation"},
      {"QueryWithoutCount", name + u32(0) + query},
      {"MoreQueriesThanCounted", name + u32(1) + query + query},
      {"OneTrailingByte", name + u32(1) + query + "x"},
  };
}

class MalformedQuery : public Handshake,
                       public testing::WithParamInterface<Malformed> {};

TEST_P(MalformedQuery, IsErrInvalidAndSelectsNothing) {
  Peer& peer = StartHaggling();
  peer.NegotiateStructuredReplies();
  for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
    EXPECT_TRUE(
        HasType(peer.Negotiate(option, GetParam().payload), kRepErrInvalid));
  }
  peer.Go("disk");
  EXPECT_TRUE(HasError(peer.Transact({.type = kCmdBlockStatus, .length = 4096}),
                       kNbdEinval));
  session().End();
}

INSTANTIATE_TEST_SUITE_P(Payload, MalformedQuery,
                         testing::ValuesIn(MalformedQueries()),
                         WordOfMalformed);

TEST_F(Handshake, ALongQueryDoesNoHarm) {
  for (size_t length : {kMaxString, kMaxString + 1, size_t{60000}}) {
    Peer& peer = StartHaggling();
    peer.NegotiateStructuredReplies();
    for (uint32_t option : {kOptListMetaContext, kOptSetMetaContext}) {
      const std::vector<std::string> queries = {"x-long:" +
                                                std::string(length - 7, 'q')};
      const OptionAnswer answer =
          peer.Negotiate(option, MetaContextPayload("", queries));
      EXPECT_TRUE(answer.replies.empty());
      EXPECT_TRUE(answer.final_type == kRepAck ||
                  (length > kMaxString && answer.final_type == kRepErrInvalid))
          << length << ": " << OptionReplyName(answer.final_type);
    }
    ExpectUsable();
  }
}

// -- Wrong magic

class WrongOptionMagic : public Handshake,
                         public testing::WithParamInterface<uint64_t> {};

TEST_P(WrongOptionMagic, IsAHardDisconnect) {
  Peer& peer = StartHaggling();
  EXPECT_TRUE(HasType(peer.Negotiate(kOptList), kRepAck));
  peer.Send(Writer().U64(GetParam()).U32(kOptList).U32(0).bytes());
  ExpectHardDisconnect();
}

INSTANTIATE_TEST_SUITE_P(
    Magic, WrongOptionMagic,
    testing::Values(uint64_t{0}, ~uint64_t{0}, kIHaveOpt ^ 1,
                    kIHaveOpt ^ (uint64_t{1} << 63), kNbdMagic,
                    kOptionReplyMagic,
                    0x54504f4556414849 /* the wrong byte order */));

TEST_F(Handshake, AClientThatSpeaksHttpIsDisconnected) {
  Peer& peer = Start();
  peer.ReceiveGreeting();
  peer.Send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  ExpectHardDisconnect();
}

// -- Other ways to the same handshake

class ByTransport : public Handshake,
                    public testing::WithParamInterface<Transport> {};

TEST_P(ByTransport, AWholeHandshakeGivesTheSameAnswers) {
  Session session({"-e", "disk", image().path()}, {.transport = GetParam()});
  Peer& peer = session.peer();
  peer.Open();
  EXPECT_TRUE(HasType(peer.Negotiate(kOptStartTls), kRepErrUnsup));
  peer.NegotiateStructuredReplies();
  EXPECT_EQ(ParseList(peer.Negotiate(kOptList)).at(0).first, "disk");
  peer.SelectAllocationContext("disk");
  const ExportInfo info =
      peer.Go("disk", std::vector<uint16_t>{kInfoName, kInfoBlockSize});
  EXPECT_EQ(info.size, kImageSize);
  EXPECT_EQ(WithoutRotational(info.flags), kWritableFlags | kSendDf);
  const Reply reply = peer.Transact({.type = kCmdRead, .length = kImageSize});
  EXPECT_TRUE(SameBytes(reply.data, Pattern(0, kImageSize)));
  session.End();
}

INSTANTIATE_TEST_SUITE_P(Over, ByTransport,
                         testing::Values(Transport::kUnix, Transport::kTcp,
                                         Transport::kPipes),
                         [](const auto& tested) {
                           switch (tested.param) {
                             case Transport::kTcp:
                               return "Tcp";
                             case Transport::kPipes:
                               return "Pipes";
                             case Transport::kUnix:
                               break;
                           }
                           return "Unix";
                         });

}  // namespace
