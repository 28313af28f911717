// SIGTERM in each phase of a connection: what is under way is answered, what
// comes later is told that the server shuts down, written data is on stable
// storage, and the status is 0. How long the server still listens is its own
// affair: no test here depends on it, save that a client which talks without a
// pause hears of the shutdown before the end of the stream.

#include <gtest/gtest.h>
#include <signal.h>

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

class Shutdown : public testing::Test {
 protected:
  Peer& Start(std::vector<std::string> arguments = {},
              SessionSetup setup = {}) {
    arguments.push_back(image_.path());
    session_.emplace(std::move(arguments), setup);
    return session_->peer();
  }
  Peer& StartTransmission(bool structured, SessionSetup setup = {}) {
    Start({}, setup).EnterTransmission(structured);
    return session_->peer();
  }
  Session& session() { return *session_; }
  Peer& peer() { return session_->peer(); }
  const TempImage& image() const { return image_; }

  void Terminate() { session_->server().Signal(SIGTERM); }

  // The server closes and ends with success; the end is logged.
  void ExpectEnd() {
    const ExitReport& report = session_->WaitForExit();
    EXPECT_TRUE(ExitedWith(report, kExitOk));
  }

 private:
  TempImage image_ = TempImage::WithPattern(kImageSize);
  std::optional<Session> session_;
};

// -- Handshake

TEST_F(Shutdown, BeforeTheClientFlagsTheServerClosesWithoutAByte) {
  Start().ReceiveGreeting();
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_F(Shutdown, BetweenOptionsTheServerClosesWithoutAByte) {
  Start().Open();
  EXPECT_TRUE(HasType(peer().Negotiate(kOptList), kRepAck));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

class ShutdownOption : public Shutdown,
                       public testing::WithParamInterface<uint32_t> {};

TEST_P(ShutdownOption, IsErrShutdownOnceTheSignalIsSeen) {
  Start().Open();
  const std::vector<uint16_t> no_infos;
  const std::vector<std::string> no_queries;
  Bytes payload;
  if (GetParam() == kOptInfo) payload = InfoPayload("", no_infos);
  if (GetParam() == kOptListMetaContext)
    payload = MetaContextPayload("", no_queries);
  EXPECT_FALSE(HasType(peer().Negotiate(GetParam(), payload), kRepErrShutdown));
  Terminate();
  // The signal and an option may cross; but a client that goes on asking is
  // told.
  OptionAnswer answer;
  do {
    answer = peer().Negotiate(GetParam(), payload);
  } while (answer.final_type != kRepErrShutdown);
  // NBD_OPT_GO as well, and then the client aborts as it must.
  EXPECT_TRUE(HasType(peer().Negotiate(kOptGo, InfoPayload("", no_infos)),
                      kRepErrShutdown));
  EXPECT_TRUE(HasType(peer().Negotiate(kOptAbort), kRepAck));
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

INSTANTIATE_TEST_SUITE_P(Option, ShutdownOption,
                         testing::Values(kOptList, kOptInfo,
                                         kOptListMetaContext, kOptStartTls,
                                         uint32_t{12345}),
                         testing::PrintToStringParamName());

TEST_F(Shutdown, AClientThatNeverStopsHagglingDoesNotKeepTheServer) {
  Start().Open();
  Terminate();
  Bytes batch;
  for (int i = 0; i < 2000; ++i) batch += OptionMessage(kOptList, "");
  EXPECT_TRUE(peer().SendsUntilTheEnd(batch));
  ExpectEnd();
}

TEST_F(Shutdown, AnOptionThatNeverEndsDoesNotKeepTheServer) {
  Start().Open();
  peer().Send(OptionMessage(kOptGo, Bytes(1000, '\0')).substr(0, 500));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_F(Shutdown, ClientFlagsThatNeverEndDoNotKeepTheServer) {
  Start().ReceiveGreeting();
  peer().Send(Bytes(2, '\0'));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

// -- Transmission

class BothStyles : public Shutdown, public testing::WithParamInterface<bool> {};

INSTANTIATE_TEST_SUITE_P(Replies, BothStyles, testing::Bool(),
                         [](const auto& tested) {
                           return tested.param ? "Structured" : "Simple";
                         });

TEST_P(BothStyles, AnIdleConnectionIsClosedWithoutAByte) {
  StartTransmission(GetParam());
  EXPECT_TRUE(
      HasError(peer().Transact({.type = kCmdRead, .length = kPage}), kNbdOk));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
  EXPECT_NE(session().WaitForExit().standard_error.find(" ended: "),
            std::string::npos);
}

TEST_P(BothStyles, LaterRequestsAreEshutdownAndNothingIsDoneForThem) {
  StartTransmission(GetParam());
  Terminate();
  Reply reply;
  do {
    reply = peer().Transact({.type = kCmdRead, .length = kPage});
  } while (reply.error == kNbdOk);
  EXPECT_TRUE(HasError(reply, kNbdEshutdown));
  EXPECT_EQ(reply.structured, GetParam());
  EXPECT_EQ(reply.message.empty(), !GetParam());
  const Bytes data = Pattern(0, 100000, 3);
  EXPECT_TRUE(
      HasError(peer().Transact(
                   {.type = kCmdWrite, .offset = 512, .length = 100000}, data),
               kNbdEshutdown));
  for (uint16_t type : {kCmdWriteZeroes, kCmdTrim, kCmdCache, kCmdRead}) {
    EXPECT_TRUE(HasError(peer().Transact({.type = type, .length = kPage}),
                         kNbdEshutdown));
  }
  EXPECT_TRUE(HasError(peer().Transact({.type = kCmdFlush}), kNbdEshutdown));
  peer().Disconnect();
  ExpectEnd();
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize)));
}

TEST_P(BothStyles, RequestsUnderWayAreAnsweredAndOnlyTheLaterOnesRefused) {
  StartTransmission(GetParam());
  constexpr uint32_t kLength = 65536;
  Bytes batch;
  for (uint64_t i = 0; i < 200; ++i) {
    batch += peer().Prepare({.type = kCmdRead,
                             .offset = i * kPage,
                             .length = kLength,
                             .cookie = i + 1});
  }
  // More replies than the socket holds, so that the signal comes amid them.
  peer().SendWithoutReading(batch);
  EXPECT_FALSE(peer().AtEnd());
  Terminate();
  uint64_t first_refused = 201;
  uint64_t last_answered = 0;
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    if (reply.error != kNbdOk) {
      EXPECT_TRUE(HasError(reply, kNbdEshutdown));
      first_refused = std::min(first_refused, cookie);
    } else {
      EXPECT_TRUE(
          SameBytes(reply.data, Pattern((cookie - 1) * kPage, kLength)));
      last_answered = std::max(last_answered, cookie);
    }
  }
  EXPECT_GE(last_answered, 1u);
  EXPECT_LT(last_answered, first_refused);
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_P(BothStyles, AClientThatNeverStopsAskingDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  Terminate();
  // There is always a request in the server's receive buffer; each of them is
  // small, so that the server has nothing to wait for.
  Bytes batch;
  for (int i = 0; i < 2000; ++i) {
    batch += RequestMessage({.type = kCmdRead, .length = 1, .cookie = 7});
  }
  EXPECT_TRUE(peer().SendsUntilTheEnd(batch));
  ExpectEnd();
}

TEST_P(BothStyles, AClientThatNeverReadsDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  Bytes batch;
  for (int i = 0; i < 20; ++i) {
    batch +=
        RequestMessage({.type = kCmdRead, .length = kImageSize, .cookie = 7});
  }
  peer().SendWithoutReading(batch);
  EXPECT_FALSE(peer().AtEnd());
  Terminate();
  ExpectEnd();
}

TEST_P(BothStyles, AWriteWhosePayloadIsHalfThereIsAnsweredWhenTheRestComes) {
  StartTransmission(GetParam());
  const Bytes data = Pattern(0, 100000, 3);
  const Bytes message =
      peer().Prepare({.type = kCmdWrite, .length = 100000}, data);
  peer().Send(message.substr(0, 50000));
  Terminate();
  peer().Send(message.substr(50000));
  const Reply reply = peer().ReceiveReply();
  if (reply.error == kNbdOk) {
    EXPECT_TRUE(SameBytes(image().Read(0, 100000), data));
  } else {
    EXPECT_TRUE(HasError(reply, kNbdEshutdown));
  }
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_P(BothStyles, APayloadThatNeverEndsDoesNotKeepTheServer) {
  for (uint32_t length : {uint32_t{1000}, uint32_t{2 << 20}}) {
    StartTransmission(GetParam());
    peer().Send(
        RequestMessage({.type = kCmdWrite, .length = length, .cookie = 1}) +
        Bytes(length / 2, 'x'));
    Terminate();
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    ExpectEnd();
  }
}

TEST_P(BothStyles, AHeaderThatNeverEndsDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  peer().Send(RequestMessage({.type = kCmdRead, .length = 512}).substr(0, 13));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_P(BothStyles, WhatWasWrittenIsOnStableStorageAfterwards) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  StartTransmission(GetParam());
  for (uint64_t offset = 0; offset < kImageSize; offset += 1 << 20) {
    EXPECT_TRUE(HasError(
        peer().Transact({.type = kCmdWrite, .offset = offset, .length = 100000},
                        Pattern(offset, 100000, 5)),
        kNbdOk));
  }
  Terminate();
  ExpectEnd();
  EXPECT_EQ(image().UnwrittenPages(0, kImageSize), 0u);
}

TEST_P(BothStyles, WritesThatWereAnsweredWhileItShutDownAreOnStableStorageToo) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  StartTransmission(GetParam());
  Bytes batch;
  for (uint64_t i = 0; i < 500; ++i) {
    batch += peer().Prepare({.type = kCmdWrite,
                             .offset = i * kPage,
                             .length = kPage,
                             .cookie = i + 1},
                            Pattern(i, kPage, 5));
  }
  peer().Send(batch.substr(0, batch.size() / 2));
  Terminate();
  peer().Send(batch.substr(batch.size() / 2));
  const auto replies = peer().ReceiveAllReplies();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
  EXPECT_EQ(image().UnwrittenPages(0, kImageSize), 0u);
  for (const auto& [cookie, reply] : replies) {
    const uint64_t offset = (cookie - 1) * kPage;
    if (reply.error == kNbdOk) {
      EXPECT_TRUE(SameBytes(image().Read(offset, kPage),
                            Pattern(cookie - 1, kPage, 5)));
    } else {
      EXPECT_TRUE(HasError(reply, kNbdEshutdown));
    }
  }
}

TEST_P(BothStyles, ASecondSignalChangesNothing) {
  StartTransmission(GetParam());
  for (int i = 0; i < 5; ++i) Terminate();
  Reply reply;
  do {
    reply = peer().Transact({.type = kCmdRead, .length = kPage});
    Terminate();
  } while (reply.error == kNbdOk);
  EXPECT_TRUE(HasError(reply, kNbdEshutdown));
  peer().Disconnect();
  ExpectEnd();
}

TEST_P(BothStyles, AClientThatLeavesMeanwhileIsNoFault) {
  StartTransmission(GetParam());
  Terminate();
  peer().ShutdownWrite();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_F(Shutdown, AReadOnlyExportIsClosedTheSameWay) {
  Start({"-r"}).EnterTransmission(true);
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

class ShutdownOver : public Shutdown,
                     public testing::WithParamInterface<Transport> {};

TEST_P(ShutdownOver, AnyStreamTellsTheClientAndCloses) {
  StartTransmission(true, {.transport = GetParam()});
  Terminate();
  Reply reply;
  do {
    reply = peer().Transact({.type = kCmdRead, .length = kPage});
  } while (reply.error == kNbdOk);
  EXPECT_TRUE(HasError(reply, kNbdEshutdown));
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

INSTANTIATE_TEST_SUITE_P(Stream, ShutdownOver,
                         testing::Values(Transport::kTcp, Transport::kPipes),
                         [](const auto& tested) {
                           return tested.param == Transport::kTcp ? "Tcp"
                                                                  : "Pipes";
                         });

}  // namespace
