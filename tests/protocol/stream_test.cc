// The byte stream under the protocol: short reads and writes, one byte at a
// time, a client that vanishes at any byte, deep pipelines, clients that don't
// read, small socket buffers, and payloads of the greatest length. Nothing of
// this may change an answer. The file is long because all of it is one list of
// ways in which bytes can come, tried on each kind of stream.

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint64_t kImageSize = 8 << 20;
constexpr uint32_t kPage = 4096;

const std::vector<uint16_t> kNoInfos;
const std::vector<std::string> kAllocation = {"base:allocation"};

std::string TransportName(Transport transport) {
  switch (transport) {
    case Transport::kUnix:
      return "Unix";
    case Transport::kTcp:
      return "Tcp";
    case Transport::kPipes:
      break;
  }
  return "Pipes";
}

class Stream : public testing::Test {
 protected:
  Peer& Start(Style style, SessionSetup setup = {}) {
    session_.emplace(std::vector<std::string>{image_.path()}, setup);
    session_->peer().EnterTransmission(
        style, /*allocation_context=*/style != Style::kSimple);
    return session_->peer();
  }
  Session& session() { return *session_; }
  Peer& peer() { return session_->peer(); }
  const TempImage& image() const { return image_; }

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  std::optional<Session> session_;
};

class AnyTransport : public Stream,
                     public testing::WithParamInterface<Transport> {};

INSTANTIATE_TEST_SUITE_P(Over, AnyTransport,
                         testing::Values(Transport::kUnix, Transport::kTcp,
                                         Transport::kPipes),
                         [](const auto& tested) {
                           return TransportName(tested.param);
                         });

// -- One byte at a time

TEST_P(AnyTransport, AHandshakeSentByteByByteIsUnderstood) {
  Session session({"-e", "disk", image().path()}, {.transport = GetParam()});
  Peer& peer = session.peer();
  peer.set_byte_by_byte(true);
  peer.Open();
  EXPECT_TRUE(HasType(peer.Negotiate(12345, "some payload"), kRepErrUnsup));
  EXPECT_TRUE(HasType(peer.Negotiate(kOptList), kRepAck));
  EXPECT_TRUE(HasType(peer.Negotiate(kOptGo, "x"), kRepErrInvalid));
  peer.NegotiateStructuredReplies();
  peer.SelectAllocationContext("disk");
  EXPECT_EQ(peer.Go("disk").size, kImageSize);
  const Reply reply =
      peer.Transact({.type = kCmdRead, .offset = 77, .length = 600});
  EXPECT_TRUE(SameBytes(reply.data, Pattern(77, 600)));
  session.End();
}

TEST_P(AnyTransport, RequestsSentByteByByteAreUnderstood) {
  for (const Style style : kEachStyle) {
    Peer& peer = Start(style, {.transport = GetParam()});
    peer.set_byte_by_byte(true);
    const Bytes data = Pattern(0, 5000, 8);
    EXPECT_TRUE(
        HasError(peer.Transact(
                     {.type = kCmdWrite, .offset = 4000, .length = 5000}, data),
                 kNbdOk));
    EXPECT_TRUE(SameBytes(image().Read(4000, 5000), data));
    // Refused, so that its payload is drained.
    EXPECT_TRUE(HasError(
        peer.Transact({.type = kCmdWrite, .offset = kImageSize, .length = 5000},
                      data),
        kNbdEnospc));
    EXPECT_TRUE(HasError(peer.Transact({.type = 99, .length = 1}), kNbdEinval));
    EXPECT_TRUE(HasError(peer.Transact({.type = kCmdFlush}), kNbdOk));
    const Reply reply =
        peer.Transact({.type = kCmdRead, .offset = 4000, .length = 5000});
    EXPECT_TRUE(SameBytes(reply.data, data));
    session().End();
    image().Write(0, Pattern(0, 65536));
  }
}

// -- Everything in one piece

TEST_F(Stream, AWholeConversationInOneSendIsAnsweredInOrder) {
  Session session({image().path()});
  Peer& peer = session.peer();
  // No client should do this, but a server that reads more than one message at
  // a time must not lose what came with it.
  const Bytes flags =
      Writer().U32(kClientFixedNewstyle | kClientNoZeroes).bytes();
  Bytes all =
      flags + OptionMessage(12345, "payload") + OptionMessage(kOptList, "") +
      OptionMessage(kOptStructuredReply, "") +
      OptionMessage(kOptSetMetaContext, MetaContextPayload("", kAllocation)) +
      OptionMessage(kOptGo, InfoPayload("", kNoInfos));
  all += peer.Prepare(
      {.type = kCmdRead, .offset = 512, .length = 512, .cookie = 1});
  all += peer.Prepare(
      {.type = kCmdWrite, .offset = kPage, .length = 8, .cookie = 2},
      "payload!");
  all += peer.Prepare({.type = kCmdBlockStatus, .length = kPage, .cookie = 3});
  all += peer.Prepare({.type = kCmdDisc});
  peer.Send(all);
  peer.ReceiveGreeting();
  EXPECT_TRUE(HasType(peer.ReceiveAnswer(12345), kRepErrUnsup));
  EXPECT_TRUE(HasType(peer.ReceiveAnswer(kOptList), kRepAck));
  EXPECT_TRUE(HasType(peer.ReceiveAnswer(kOptStructuredReply), kRepAck));
  EXPECT_TRUE(HasType(peer.ReceiveAnswer(kOptSetMetaContext), kRepAck));
  EXPECT_TRUE(HasType(peer.ReceiveAnswer(kOptGo), kRepAck));
  const auto replies = peer.ReceiveAllReplies();
  EXPECT_TRUE(SameBytes(replies.at(1).data, Pattern(512, 512)));
  EXPECT_TRUE(HasError(replies.at(2), kNbdOk));
  EXPECT_EQ(replies.at(3).extents.size(), 1u);
  EXPECT_TRUE(SameBytes(peer.ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitOk));
  EXPECT_EQ(image().Read(kPage, 8), "payload!");
}

TEST_F(Stream, EverySplitOfAHandshakeInTwoPiecesGivesTheSameAnswers) {
  const Bytes all =
      Writer().U32(kClientFixedNewstyle | kClientNoZeroes).bytes() +
      OptionMessage(12345, "pay") + OptionMessage(kOptStructuredReply, "") +
      OptionMessage(kOptGo, InfoPayload("disk", kNoInfos)) +
      RequestMessage({.type = kCmdDisc});
  for (size_t split = 1; split < all.size(); ++split) {
    Session session({image().path()});
    Peer& peer = session.peer();
    peer.ReceiveGreeting();
    peer.SendByteByByte(all.substr(0, 1));
    peer.Send(all.substr(1, split - 1));
    // Long enough for the server to take the first piece alone, nearly always.
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    peer.Send(all.substr(split));
    ASSERT_TRUE(HasType(peer.ReceiveAnswer(12345), kRepErrUnsup)) << split;
    ASSERT_TRUE(HasType(peer.ReceiveAnswer(kOptStructuredReply), kRepAck))
        << split;
    ASSERT_TRUE(HasType(peer.ReceiveAnswer(kOptGo), kRepAck)) << split;
    EXPECT_TRUE(SameBytes(peer.ReceiveToEnd(), "")) << split;
    EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitOk)) << split;
  }
}

// -- A client that vanishes

// A conversation as messages: the client may leave after each of them, but not
// inside.
struct Script {
  std::vector<Bytes> messages;

  Bytes Whole() const {
    Bytes whole;
    for (const Bytes& message : messages) whole += message;
    return whole;
  }
  bool IsBetweenMessages(size_t at) const {
    for (const Bytes& message : messages) {
      if (at == 0) return true;
      if (at < message.size()) return false;
      at -= message.size();
    }
    return at == 0;
  }
};

Script HandshakeScript() {
  return {
      {Writer().U32(kClientFixedNewstyle | kClientNoZeroes).bytes(),
       OptionMessage(12345, "pay"), OptionMessage(kOptList, ""),
       OptionMessage(kOptStructuredReply, ""),
       OptionMessage(kOptSetMetaContext, MetaContextPayload("d", kAllocation)),
       OptionMessage(kOptInfo, InfoPayload("disk", kNoInfos)),
       OptionMessage(kOptGo, InfoPayload("disk", kNoInfos))}};
}

TEST_F(Stream, EofAtAnyByteOfAHandshakeEndsTheServerWithTheRightStatus) {
  const Script script = HandshakeScript();
  const Bytes whole = script.Whole();
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    Session session({image().path()});
    session.peer().ReceiveGreeting();
    session.peer().Send(whole.substr(0, cut));
    session.peer().ShutdownWrite();
    // The server's own messages are complete whatever the client's are.
    session.peer().ReceiveToEnd();
    EXPECT_TRUE(ExitedWith(session.WaitForExit(), script.IsBetweenMessages(cut)
                                                      ? kExitOk
                                                      : kExitProtocol))
        << "after byte " << cut;
  }
}

TEST_F(Stream, AClientThatVanishesAtAnyByteOfAHandshakeDoesNotCrashTheServer) {
  const Bytes whole = HandshakeScript().Whole();
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    // Nothing is read: the server may be writing when the client is gone, which
    // is a vanished client to it or a complete conversation, as it happens.
    Session session({image().path()});
    EXPECT_TRUE(session.peer().TrySend(whole.substr(0, cut)));
    session.peer().Close();
    EXPECT_TRUE(
        ExitedWithOneOf(session.WaitForExit(), {kExitOk, kExitProtocol}))
        << "after byte " << cut;
  }
}

TEST_F(Stream, EofInsideAnExportNameIsAVanishedClient) {
  const Script script = {{Writer().U32(kClientFixedNewstyle).bytes(),
                          OptionMessage(kOptExportName, "disk")}};
  const Bytes whole = script.Whole();
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    Session session({image().path()});
    session.peer().ReceiveGreeting();
    session.peer().Send(whole.substr(0, cut));
    session.peer().ShutdownWrite();
    const Bytes rest = session.peer().ReceiveToEnd();
    EXPECT_EQ(rest.size(), cut == whole.size() ? 134u : 0u)
        << "after byte " << cut;
    EXPECT_TRUE(ExitedWith(session.WaitForExit(), script.IsBetweenMessages(cut)
                                                      ? kExitOk
                                                      : kExitProtocol))
        << "after byte " << cut;
  }
}

// Two requests, one that is refused, and one without a payload.
Script RequestsScript(Style style) {
  const Bytes data = Pattern(0, 20, 4);
  const uint16_t write_flags =
      style == Style::kExtended ? kCmdFlagPayloadLen : uint16_t{0};
  const auto write = [&](uint64_t offset, uint64_t cookie) {
    return RequestMessage(style, {.type = kCmdWrite,
                                  .flags = write_flags,
                                  .offset = offset,
                                  .length = data.size(),
                                  .cookie = cookie}) +
           data;
  };
  return {
      {RequestMessage(style, {.type = kCmdRead, .length = 512, .cookie = 1}),
       write(kPage, 2),
       // Refused, so that the payload is drained.
       write(kImageSize, 3),
       RequestMessage(style, {.type = kCmdFlush, .cookie = 4})}};
}

TEST_F(Stream, EofAtAnyByteOfRequestsEndsTheServerWithTheRightStatus) {
  for (const Style style : kEachStyle) {
    const Script script = RequestsScript(style);
    const Bytes whole = script.Whole();
    for (size_t cut = 0; cut <= whole.size(); ++cut) {
      Start(style);
      peer().Send(whole.substr(0, cut));
      peer().ShutdownWrite();
      peer().ReceiveToEnd();
      EXPECT_TRUE(
          ExitedWith(session().WaitForExit(),
                     script.IsBetweenMessages(cut) ? kExitOk : kExitProtocol))
          << NameOf(style) << ", after byte " << cut;
    }
  }
}

TEST_F(Stream, AClientThatVanishesAtAnyByteOfRequestsDoesNotCrashTheServer) {
  const Bytes data = Pattern(0, 20, 4);
  const Bytes whole =
      RequestMessage({.type = kCmdRead, .length = 1 << 20, .cookie = 1}) +
      RequestMessage(
          {.type = kCmdWrite, .offset = kPage, .length = 20, .cookie = 2}) +
      data;
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    Start(Style::kStructured);
    EXPECT_TRUE(peer().TrySend(whole.substr(0, cut)));
    peer().Close();
    EXPECT_TRUE(
        ExitedWithOneOf(session().WaitForExit(), {kExitOk, kExitProtocol}))
        << "after byte " << cut;
  }
}

TEST_F(Stream, EofInsideALargePayloadIsAVanishedClient) {
  constexpr uint32_t kLength = 1 << 20;
  const Bytes data = Pattern(0, kLength, 4);
  // Around the sizes in which a server might take a payload.
  for (size_t cut :
       {size_t{1}, size_t{4096}, size_t{65535}, size_t{65536}, size_t{262143},
        size_t{262144}, size_t{262145}, size_t{524288}, size_t{kLength - 1}}) {
    for (uint64_t offset : {uint64_t{0}, kImageSize}) {
      Start(Style::kStructured);
      peer().Send(RequestMessage({.type = kCmdWrite,
                                  .offset = offset,
                                  .length = kLength,
                                  .cookie = 1}) +
                  data.substr(0, cut));
      peer().ShutdownWrite();
      EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""))
          << "a reply to half a request";
      EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol)) << cut;
    }
  }
}

TEST_F(Stream, EofInsideAPayloadThatIsTooLongForAnythingIsAVanishedClient) {
  for (uint32_t length : {kLongestRequest + 1, ~uint32_t{0}}) {
    Start(Style::kSimple);
    peer().Send(
        RequestMessage({.type = kCmdWrite, .length = length, .cookie = 1}) +
        Pattern(0, 300000));
    peer().ShutdownWrite();
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol));
  }
}

TEST_F(Stream, EofInsideAnOversizeOptionIsAVanishedClient) {
  for (uint32_t option : {kOptGo, kOptList, uint32_t{12345}}) {
    Session session({image().path()});
    session.peer().Open();
    // 4 GiB announced: nothing that a server may set memory aside for.
    session.peer().Send(Writer()
                            .U64(kIHaveOpt)
                            .U32(option)
                            .U32(~uint32_t{0})
                            .Raw(Pattern(0, 200000))
                            .bytes());
    session.peer().ShutdownWrite();
    session.peer().ReceiveToEnd();
    EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitProtocol)) << option;
  }
}

TEST_F(Stream, RequestsAnsweredBeforeTheClientVanishedHaveHappened) {
  Start(Style::kSimple);
  const Bytes data = Pattern(0, kPage, 21);
  EXPECT_TRUE(HasError(
      peer().Transact({.type = kCmdWrite, .length = kPage}, data), kNbdOk));
  peer().Send(
      RequestMessage({.type = kCmdWrite, .offset = kPage, .length = kPage})
          .substr(0, 20));
  peer().Close();
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol));
  EXPECT_TRUE(SameBytes(image().Read(0, kPage), data));
  EXPECT_TRUE(SameBytes(image().Read(kPage, kPage), Pattern(kPage, kPage)));
}

TEST_P(AnyTransport, AClientThatVanishesInTheMiddleOfALargeReplyEndsTheServer) {
  for (const Style style : kEachStyle) {
    for (size_t taken : {size_t{0}, size_t{1}, size_t{16}, size_t{300000}}) {
      Start(style, {.transport = GetParam()});
      peer().Send(
          RequestMessage(
              style, {.type = kCmdRead, .length = kImageSize, .cookie = 1}) +
          RequestMessage(
              style, {.type = kCmdRead, .length = kImageSize, .cookie = 2}));
      peer().Receive(taken);
      peer().Close();
      EXPECT_TRUE(
          ExitedWithOneOf(session().WaitForExit(), {kExitOk, kExitProtocol}));
    }
  }
}

TEST_F(Stream, AResetConnectionEndsTheServerWithoutASignal) {
  for (size_t sent : {size_t{0}, size_t{10}, size_t{28}, size_t{40}}) {
    Start(Style::kStructured, {.transport = Transport::kTcp});
    const Bytes message =
        RequestMessage({.type = kCmdWrite, .length = 1000, .cookie = 1}) +
        Pattern(0, 100);
    peer().Send(message.substr(0, sent));
    peer().CloseWithReset();
    EXPECT_TRUE(
        ExitedWithOneOf(session().WaitForExit(), {kExitOk, kExitProtocol}))
        << sent;
  }
}

// -- Half-close

TEST_P(AnyTransport, AfterAHalfCloseAllRequestsAreStillAnswered) {
  for (const Style style : kEachStyle) {
    Start(style, {.transport = GetParam()});
    image().DropCache();
    Bytes batch;
    std::map<uint64_t, uint64_t> offsets;
    for (uint64_t i = 0; i < 40; ++i) {
      const uint64_t offset = i * 190000;
      offsets[i + 1] = offset;
      batch += peer().Prepare({.type = kCmdRead,
                               .offset = offset,
                               .length = 100000,
                               .cookie = i + 1});
    }
    batch += peer().Prepare({.type = kCmdFlush, .cookie = 1000});
    peer().Send(batch);
    peer().ShutdownWrite();
    for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
      EXPECT_TRUE(HasError(reply, kNbdOk));
      if (cookie == 1000) continue;
      EXPECT_TRUE(SameBytes(reply.data, Pattern(offsets[cookie], 100000)));
    }
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
  }
}

// -- Pipelines

class Pipeline : public Stream,
                 public testing::WithParamInterface<std::tuple<Style, int>> {};

INSTANTIATE_TEST_SUITE_P(Deep, Pipeline,
                         testing::Combine(testing::ValuesIn(kEachStyle),
                                          testing::Values(100, 1000, 5000)),
                         [](const auto& tested) {
                           return NameOf(std::get<0>(tested.param)) +
                                  std::to_string(std::get<1>(tested.param));
                         });

TEST_P(Pipeline, ReadsInOneSendAreEachAnsweredWithTheirBytes) {
  const auto [style, depth] = GetParam();
  Start(style);
  Bytes batch;
  std::map<uint64_t, Request> sent;
  for (int i = 0; i < depth; ++i) {
    const auto n = static_cast<uint64_t>(i);
    const Request request = {.type = kCmdRead,
                             .offset = n * 7919 % (kImageSize - 5000),
                             .length = 1 + static_cast<uint32_t>(n * 31 % 5000),
                             .cookie = 0xabcd000000000000 + n};
    sent[*request.cookie] = request;
    batch += peer().Prepare(request);
  }
  peer().Send(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    const Request& request = sent.at(cookie);
    ASSERT_TRUE(HasError(reply, kNbdOk));
    ASSERT_TRUE(SameBytes(reply.data, Pattern(request.offset, request.length)));
  }
  session().End();
}

TEST_P(Pipeline, MixedCommandsInOneSendAreEachAnsweredOnce) {
  const auto [style, depth] = GetParam();
  Start(style);
  Bytes batch;
  std::map<uint64_t, uint32_t> expected;
  for (int i = 0; i < depth; ++i) {
    const auto n = static_cast<uint64_t>(i);
    Request request = {
        .offset = n * kPage % kImageSize, .length = 512, .cookie = n + 1};
    uint32_t error = kNbdOk;
    switch (i % 8) {
      case 0:
        request.type = kCmdRead;
        break;
      case 1:
        request.type = kCmdWrite;
        break;
      case 2:
        request.type = kCmdCache;
        break;
      case 3:
        request.type = kCmdWriteZeroes;
        break;
      case 4:
        request.type = kCmdWrite;
        request.offset = kImageSize - 1;
        error = kNbdEnospc;
        break;
      case 5:
        request.type = kCmdBlockStatus;
        error = style == Style::kSimple ? kNbdEinval : kNbdOk;
        break;
      case 6:
        request.type = 1000;
        error = kNbdEinval;
        break;
      default:
        request.type = kCmdTrim;
        break;
    }
    expected[n + 1] = error;
    const Bytes payload = request.type == kCmdWrite ? Pattern(n, 512) : Bytes();
    batch += peer().Prepare(request, payload);
  }
  peer().Send(batch);
  const auto replies = peer().ReceiveAllReplies();
  for (const auto& [cookie, error] : expected) {
    ASSERT_TRUE(HasError(replies.at(cookie), error)) << cookie;
  }
  session().End();
}

TEST_P(Pipeline, WritesInOneSendAllReachTheFile) {
  const auto [style, depth] = GetParam();
  Start(style);
  Bytes batch;
  for (int i = 0; i < depth; ++i) {
    // No two of them overlap: their order is the server's.
    const auto offset = static_cast<uint64_t>(i) * 1500;
    batch +=
        peer().Prepare({.type = kCmdWrite, .offset = offset, .length = 1500},
                       Pattern(offset, 1500, 6));
  }
  peer().Send(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    ASSERT_TRUE(HasError(reply, kNbdOk)) << cookie;
  }
  session().End();
  const auto written = static_cast<size_t>(depth) * 1500;
  EXPECT_TRUE(SameBytes(image().Read(0, written), Pattern(0, written, 6)));
  EXPECT_TRUE(SameBytes(image().Read(written, 4096), Pattern(written, 4096)));
}

TEST_F(Stream, ColdReadsInOneSendAreEachAnsweredWithTheirBytes) {
  for (const Style style : kEachStyle) {
    Start(style);
    image().DropCache();
    Bytes batch;
    for (uint64_t i = 0; i < 500; ++i) {
      batch += peer().Prepare({.type = kCmdRead,
                               .offset = i * 16001,
                               .length = 9000,
                               .cookie = i + 1});
    }
    peer().Send(batch);
    for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
      ASSERT_TRUE(HasError(reply, kNbdOk));
      ASSERT_TRUE(SameBytes(reply.data, Pattern((cookie - 1) * 16001, 9000)));
    }
    session().End();
  }
}

// Far more requests that take the slow way, each of them, than a server can
// have under way at a time: it has to come back to those it has received
// already.
class SlowPipeline : public Stream,
                     public testing::WithParamInterface<uint16_t> {
 protected:
  static constexpr uint64_t kCount = 20000;

  Bytes Batch() {
    Bytes batch;
    for (uint64_t i = 0; i < kCount; ++i) {
      Request request = {.type = GetParam(), .cookie = i + 1};
      if (request.type != kCmdFlush) {
        request.offset = i * 512 % kImageSize;
        request.length = 512;
      }
      batch += peer().Prepare(request);
    }
    return batch;
  }
  void ExpectAllAnswered() {
    for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
      ASSERT_TRUE(HasError(reply, kNbdOk)) << cookie;
    }
  }
};

TEST_P(SlowPipeline, IsAnsweredToTheLastRequest) {
  Start(Style::kStructured);
  peer().Send(Batch());
  ExpectAllAnswered();
  session().End();
}

TEST_P(SlowPipeline, IsAnsweredToTheLastRequestAfterAHalfClose) {
  Start(Style::kStructured);
  peer().Send(Batch());
  peer().ShutdownWrite();
  ExpectAllAnswered();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

TEST_P(SlowPipeline, IsAnsweredToTheLastRequestBeforeADisconnect) {
  Start(Style::kStructured);
  peer().Send(Batch() + peer().Prepare({.type = kCmdDisc}));
  ExpectAllAnswered();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

INSTANTIATE_TEST_SUITE_P(Of, SlowPipeline,
                         testing::Values(kCmdCache, kCmdBlockStatus, kCmdTrim,
                                         kCmdWriteZeroes, kCmdFlush),
                         [](const auto& tested) -> std::string {
                           switch (tested.param) {
                             case kCmdCache:
                               return "Cache";
                             case kCmdBlockStatus:
                               return "BlockStatus";
                             case kCmdTrim:
                               return "Trim";
                             case kCmdWriteZeroes:
                               return "WriteZeroes";
                             default:
                               return "Flush";
                           }
                         });

TEST_F(Stream, ManyWritesWithFuaInOneSendAllReachTheFile) {
  for (bool half_close : {false, true}) {
    Start(Style::kStructured);
    constexpr uint32_t kLength = 200000;
    Bytes batch;
    for (uint64_t i = 0; i < 40; ++i) {
      batch += peer().Prepare({.type = kCmdWrite,
                               .flags = kCmdFlagFua,
                               .offset = i * kLength,
                               .length = kLength},
                              Pattern(i * kLength, kLength, 13));
    }
    peer().Send(batch);
    if (half_close) peer().ShutdownWrite();
    for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
      ASSERT_TRUE(HasError(reply, kNbdOk)) << cookie;
    }
    if (!half_close) session().End();
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
    EXPECT_TRUE(
        SameBytes(image().Read(0, 40 * kLength), Pattern(0, 40 * kLength, 13)));
    image().Write(0, Pattern(0, kImageSize));
  }
}

TEST_F(Stream, AReadSeesTheWriteThatWasAnsweredBeforeItWasSent) {
  Start(Style::kStructured);
  for (uint64_t i = 0; i < 200; ++i) {
    const Bytes data = Pattern(i, 3000, i + 2);
    const uint64_t offset = i * 997;
    ASSERT_TRUE(HasError(
        peer().Transact({.type = kCmdWrite, .offset = offset, .length = 3000},
                        data),
        kNbdOk));
    const Reply reply =
        peer().Transact({.type = kCmdRead, .offset = offset, .length = 3000});
    ASSERT_TRUE(SameBytes(reply.data, data));
  }
  session().End();
}

// -- Clients that don't read, and little room in the socket

TEST_P(AnyTransport, AClientThatSendsThousandReadsBeforeItReadsGetsAllReplies) {
  Start(Style::kStructured, {.transport = GetParam()});
  const long before = session().server().PeakMemoryKib();
  Bytes batch;
  constexpr uint32_t kLength = 65536;
  for (uint64_t i = 0; i < 1000; ++i) {
    batch += peer().Prepare({.type = kCmdRead,
                             .offset = i * kPage % (kImageSize - kLength),
                             .length = kLength,
                             .cookie = i + 1});
  }
  // 28 KB of requests fit into any stream; the 64 MB of replies fit into none.
  peer().SendWithoutReading(batch);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  // Nor into the server: it has to stop when its client does not read.
  EXPECT_LE(session().server().PeakMemoryKib() - before, 16 * 1024);
  for (int i = 0; i < 1000; ++i) {
    const Reply reply = peer().ReceiveReply();
    ASSERT_TRUE(HasError(reply, kNbdOk));
    const uint64_t offset = (reply.cookie - 1) * kPage % (kImageSize - kLength);
    ASSERT_TRUE(SameBytes(reply.data, Pattern(offset, kLength)));
  }
  EXPECT_LE(session().server().PeakMemoryKib() - before, 16 * 1024);
  session().End();
}

TEST_P(AnyTransport, AClientThatSendsManyWritesBeforeItReadsGetsAllReplies) {
  Start(Style::kSimple, {.transport = GetParam()});
  constexpr uint32_t kLength = 65536;
  Bytes batch;
  for (uint64_t i = 0; i < kImageSize / kLength; ++i) {
    batch += peer().Prepare(
        {.type = kCmdWrite, .offset = i * kLength, .length = kLength},
        Pattern(i * kLength, kLength, 9));
  }
  peer().SendWithoutReading(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    EXPECT_TRUE(HasError(reply, kNbdOk)) << cookie;
  }
  EXPECT_TRUE(
      SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize, 9)));
  session().End();
}

class TinyBuffers
    : public Stream,
      public testing::WithParamInterface<std::tuple<Transport, int, Style>> {};

INSTANTIATE_TEST_SUITE_P(Of, TinyBuffers,
                         testing::Combine(testing::Values(Transport::kUnix,
                                                          Transport::kTcp),
                                          testing::Values(1, 5000, 40000),
                                          testing::ValuesIn(kEachStyle)),
                         [](const auto& tested) {
                           return TransportName(std::get<0>(tested.param)) +
                                  std::to_string(std::get<1>(tested.param)) +
                                  NameOf(std::get<2>(tested.param));
                         });

TEST_P(TinyBuffers, ChangeNoAnswer) {
  const auto [transport, bytes, style] = GetParam();
  Start(style, {.transport = transport, .socket_buffer_bytes = bytes});
  constexpr uint32_t kLength = 300000;
  Bytes batch;
  for (uint64_t i = 0; i < 8; ++i) {
    batch += peer().Prepare({.type = kCmdRead,
                             .offset = i * 1000,
                             .length = kLength,
                             .cookie = i + 1});
    const uint64_t offset = (4 << 20) + i * kLength;
    batch += peer().Prepare({.type = kCmdWrite,
                             .offset = offset,
                             .length = kLength,
                             .cookie = i + 101},
                            Pattern(offset, kLength, 3));
  }
  peer().Send(batch);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    ASSERT_TRUE(HasError(reply, kNbdOk));
    if (cookie > 100) continue;
    EXPECT_TRUE(SameBytes(reply.data, Pattern((cookie - 1) * 1000, kLength)));
  }
  session().End();
  EXPECT_TRUE(SameBytes(image().Read(4 << 20, 8 * kLength),
                        Pattern(4 << 20, 8 * kLength, 3)));
}

// -- The greatest payloads

class GreatestPayload
    : public testing::TestWithParam<std::tuple<Transport, Style>> {};

INSTANTIATE_TEST_SUITE_P(Over, GreatestPayload,
                         testing::Combine(testing::Values(Transport::kUnix,
                                                          Transport::kTcp,
                                                          Transport::kPipes),
                                          testing::ValuesIn(kEachStyle)),
                         [](const auto& tested) {
                           return TransportName(std::get<0>(tested.param)) +
                                  NameOf(std::get<1>(tested.param));
                         });

TEST_P(GreatestPayload, IsWrittenAndReadBackWithLittleMemory) {
  const auto [transport, style] = GetParam();
  // An offset and an end that are aligned to nothing.
  constexpr uint64_t kOffset = 12345;
  const TempImage image = TempImage::Sparse(kLongestRequest + (1 << 20));
  Session session({image.path()}, {.transport = transport});
  Peer& peer = session.peer();
  peer.EnterTransmission(style);
  // What the first transfer needs stays: buffers of one size for all.
  peer.Transact({.type = kCmdRead, .length = 1 << 20});
  const long before = session.server().PeakMemoryKib();
  const Bytes data = Pattern(0, kLongestRequest, 17);
  // With extended headers, a longer payload than advertised ends the
  // connection.
  const uint32_t longest_write =
      style == Style::kExtended ? kMaxPayload : kLongestRequest;
  for (uint64_t at = 0; at < kLongestRequest; at += longest_write) {
    EXPECT_TRUE(HasError(peer.Transact({.type = kCmdWrite,
                                        .offset = kOffset + at,
                                        .length = longest_write},
                                       data.substr(at, longest_write)),
                         kNbdOk));
  }
  EXPECT_TRUE(SameBytes(image.Read(kOffset, kLongestRequest), data));
  const Reply warm = peer.Transact(
      {.type = kCmdRead, .offset = kOffset, .length = kLongestRequest});
  EXPECT_TRUE(HasError(warm, kNbdOk));
  EXPECT_TRUE(SameBytes(warm.data, data));
  image.DropCache();
  const Reply cold = peer.Transact(
      {.type = kCmdRead, .offset = kOffset, .length = kLongestRequest});
  EXPECT_TRUE(SameBytes(cold.data, data));
  EXPECT_LE(session.server().PeakMemoryKib() - before, 8 * 1024)
      << "memory grows with the request";
  session.End();
}

TEST_P(GreatestPayload, SeveralAtOnceAreAnsweredWithTheirBytes) {
  const auto [transport, style] = GetParam();
  const TempImage image = TempImage::WithPattern(kLongestRequest + 4 * kPage);
  Session session({image.path()}, {.transport = transport});
  Peer& peer = session.peer();
  peer.EnterTransmission(style);
  image.DropCache();
  Bytes batch;
  for (uint64_t i = 0; i < 4; ++i) {
    batch += peer.Prepare({.type = kCmdRead,
                           .offset = i * kPage,
                           .length = kLongestRequest,
                           .cookie = i + 1});
  }
  peer.Send(batch);
  for (int i = 0; i < 4; ++i) {
    const Reply reply = peer.ReceiveReply();
    ASSERT_TRUE(HasError(reply, kNbdOk));
    EXPECT_TRUE(SameBytes(
        reply.data, Pattern((reply.cookie - 1) * kPage, kLongestRequest)));
  }
  session.End();
}

}  // namespace
