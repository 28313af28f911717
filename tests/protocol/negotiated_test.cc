// A connection on which another program has negotiated (--negotiated), over a
// socket pair: it begins with transmission, in the style that the option says.
// What transmission is like is in transmission_test.cc.

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

constexpr uint64_t kImageSize = 1 << 20;

// What has been negotiated.
struct Agreement {
  Style style;
  bool context;

  std::string word() const {
    std::string word = style == Style::kSimple       ? "simple"
                       : style == Style::kStructured ? "structured"
                                                     : "extended";
    return word + (context ? ",base:allocation" : "");
  }
};

constexpr Agreement kAgreements[] = {
    {Style::kSimple, false},    {Style::kStructured, false},
    {Style::kStructured, true}, {Style::kExtended, false},
    {Style::kExtended, true},
};

class NegotiatedBefore : public testing::TestWithParam<Agreement> {
 protected:
  Peer& Start(std::vector<std::string> arguments = {},
              SessionSetup setup = {}) {
    arguments.push_back("--negotiated=" + GetParam().word());
    arguments.push_back(image_.path());
    session_.emplace(std::move(arguments), setup);
    peer().SkipHandshake(GetParam().style, GetParam().context);
    return peer();
  }
  Peer& peer() { return session_->peer(); }
  Session& session() { return *session_; }

  // Peer takes nothing but a reply, so that this fails after a greeting.
  void ExpectServed() {
    const Reply reply =
        peer().Transact({.type = kCmdRead, .offset = 4096, .length = 70000});
    ASSERT_TRUE(HasError(reply, kNbdOk));
    EXPECT_TRUE(SameBytes(reply.data, Pattern(4096, 70000)));
  }
  void ExpectHardDisconnect() {
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitProtocol));
  }

  TempImage image_ = TempImage::WithPattern(kImageSize);

 private:
  std::optional<Session> session_;
};

INSTANTIATE_TEST_SUITE_P(Agreements, NegotiatedBefore,
                         testing::ValuesIn(kAgreements),
                         [](const testing::TestParamInfo<Agreement>& tested) {
                           return NameOf(tested.param.style) +
                                  (tested.param.context ? "WithContext" : "");
                         });

TEST_P(NegotiatedBefore, TheFirstBytesFromTheServerAnswerTheFirstRequest) {
  for (const Transport transport :
       {Transport::kUnix, Transport::kTcp, Transport::kPipes}) {
    Start({}, {.transport = transport});
    ExpectServed();
    session().End();
  }
  Start({}, {.activated = true});
  ExpectServed();
  session().End();
}

TEST_P(NegotiatedBefore, NothingIsSentWithoutARequest) {
  Start().ShutdownWrite();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session().WaitForExit(), kExitOk));
}

TEST_P(NegotiatedBefore, WritesAreFlushedAndReadBack) {
  Start();
  const Bytes data = Pattern(0, 8192, 7);
  EXPECT_TRUE(HasError(
      peer().Transact({.type = kCmdWrite, .offset = 512, .length = 8192}, data),
      kNbdOk));
  EXPECT_TRUE(HasError(peer().Transact({.type = kCmdFlush}), kNbdOk));
  const Reply reply =
      peer().Transact({.type = kCmdRead, .offset = 512, .length = 8192});
  EXPECT_TRUE(SameBytes(reply.data, data));
  session().End();
  EXPECT_TRUE(SameBytes(image_.Read(512, 8192), data));
}

TEST_P(NegotiatedBefore, BlockStatusIsThereIfItsContextWasSelected) {
  Start();
  const Reply reply = peer().Transact(
      {.type = kCmdBlockStatus, .offset = 0, .length = kImageSize});
  if (GetParam().context) {
    ASSERT_TRUE(HasError(reply, kNbdOk));
    ASSERT_FALSE(reply.extents.empty());
    EXPECT_EQ(reply.context_id, 1u);
  } else {
    EXPECT_TRUE(HasError(reply, kNbdEinval));
  }
  ExpectServed();
  session().End();
}

TEST_P(NegotiatedBefore, TheConnectionGoesOnAfterAWrongRequest) {
  Start();
  EXPECT_TRUE(HasError(peer().Transact({.type = 99, .offset = 0, .length = 0}),
                       kNbdEinval));
  EXPECT_TRUE(HasError(
      peer().Transact({.type = kCmdRead, .offset = kImageSize, .length = 1}),
      kNbdEinval));
  const Bytes data(512, 'x');
  EXPECT_TRUE(HasError(
      peer().Transact(
          {.type = kCmdWrite, .offset = kImageSize - 1, .length = 512}, data),
      kNbdEnospc));
  ExpectServed();
  session().End();
}

TEST_P(NegotiatedBefore, RequestsThatCameEarlyAreAnsweredInFull) {
  Start();
  Bytes requests;
  for (uint64_t i = 0; i < 100; ++i) {
    requests +=
        peer().Prepare({.type = kCmdRead, .offset = 512 * i, .length = 512});
  }
  peer().SendWithoutReading(requests);
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    EXPECT_TRUE(HasError(reply, kNbdOk));
    EXPECT_EQ(reply.data.size(), 512u);
  }
  session().End();
}

TEST_P(NegotiatedBefore, AClientThatNegotiatesBreaksTheProtocol) {
  // The client flags and an option, as if there had been a greeting; as long as
  // any request's header.
  Start().Send(Writer().U32(kClientFixedNewstyle).bytes() +
               OptionMessage(kOptGo, InfoPayload("a long name",
                                                 std::vector<uint16_t>())));
  ExpectHardDisconnect();
}

TEST_P(NegotiatedBefore, RequestsWithHeadersOfTheOtherKindAreRefused) {
  const Style other = GetParam().style == Style::kExtended ? Style::kStructured
                                                           : Style::kExtended;
  // With eight bytes more, the header is long enough in any case. All in one
  // message: the server refuses as soon as it has what it needs.
  Start().Send(
      RequestMessage(other, {.type = kCmdRead, .offset = 0, .length = 512}) +
      Bytes(8, '\0'));
  ExpectHardDisconnect();
}

TEST_P(NegotiatedBefore, AReadOnlyExportRefusesWrites) {
  Start({"--readonly"});
  const Bytes data(512, 'x');
  EXPECT_TRUE(HasError(
      peer().Transact({.type = kCmdWrite, .offset = 0, .length = 512}, data),
      kNbdEperm));
  ExpectServed();
  session().End();
}

TEST_P(NegotiatedBefore, AnExportThatCantBeOpenedEndsWithoutAByte) {
  Session session({"--negotiated=" + GetParam().word(), "/no/such/file"});
  EXPECT_TRUE(SameBytes(session.peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitNoInput));
}

}  // namespace
