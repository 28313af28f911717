// SIGUSR1 drains a connection: whatever has been received is carried out and
// answered as if nothing had happened, nothing is refused, and then the stream
// ends. A client that sends what wasn't answered again, over another
// connection, sees no error.

#include <gtest/gtest.h>
#include <signal.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/signalled_session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

class Drain : public SignalledSession {
 protected:
  void Begin() { Signal(SIGUSR1); }

  // The replies until the stream ends, by cookie.
  std::map<uint64_t, Reply> ReceiveWhatComes() {
    std::map<uint64_t, Reply> replies;
    try {
      while (peer().pending() > 0) {
        Reply reply = peer().ReceiveReply();
        const uint64_t cookie = reply.cookie;
        replies.emplace(cookie, std::move(reply));
      }
    } catch (const ConnectionEnded&) {
    }
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    return replies;
  }
};

class EachStyle : public Drain, public testing::WithParamInterface<Style> {};

INSTANTIATE_TEST_SUITE_P(Replies, EachStyle, testing::ValuesIn(kEachStyle),
                         [](const auto& tested) {
                           return NameOf(tested.param);
                         });

TEST_P(EachStyle, AnIdleConnectionIsClosedWithoutAByte) {
  StartTransmission(GetParam());
  EXPECT_TRUE(
      HasError(peer().Transact({.type = kCmdRead, .length = kPage}), kNbdOk));
  Begin();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
  EXPECT_NE(session().WaitForExit().standard_error.find(
                " ended: the connection has been drained; 1 request"),
            std::string::npos);
}

TEST_P(EachStyle, AllThatWasReceivedIsAnswered) {
  StartTransmission(GetParam());
  SendReads();
  Begin();
  const auto replies = ReceiveWhatComes();
  EXPECT_EQ(replies.size(), kReads);
  for (const auto& [cookie, reply] : replies) {
    EXPECT_TRUE(HasError(reply, kNbdOk));
    ExpectData(cookie, reply);
  }
  ExpectEnd();
}

TEST_P(EachStyle, NoReplyIsEshutdownHoweverLongTheClientAsks) {
  StartTransmission(GetParam());
  Begin();
  try {
    for (;;) {
      EXPECT_TRUE(HasError(peer().Transact({.type = kCmdRead, .length = kPage}),
                           kNbdOk));
    }
  } catch (const ConnectionEnded&) {
  }
  ExpectEnd();
}

TEST_P(EachStyle, AClientThatNeverStopsAskingDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  Begin();
  AskUntilTheEnd(GetParam());
  ExpectEnd();
}

TEST_P(EachStyle, AWriteWithoutItsPayloadIsNeitherCarriedOutNorAnswered) {
  StartTransmission(GetParam());
  peer().Send(
      RequestMessage(GetParam(),
                     {.type = kCmdWrite, .length = 100000, .cookie = 1}) +
      Bytes(50000, 'x'));
  Begin();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
  EXPECT_TRUE(SameBytes(image().Read(0, kImageSize), Pattern(0, kImageSize)));
}

// The rest may come too late, but never to an error.
TEST_P(EachStyle, AWriteWhoseRestComesIsAnsweredWithSuccess) {
  for (const uint32_t length : {uint32_t{100000}, uint32_t{1 << 20}}) {
    StartTransmission(GetParam());
    const Bytes data = Pattern(0, length, 3);
    const Bytes message = peer().Prepare(
        {.type = kCmdWrite, .length = length, .cookie = 1}, data);
    // The server has taken it: the drain finds half of a message.
    peer().Send(message.substr(0, length / 2));
    peer().WaitUntilRead();
    Begin();
    peer().TrySend(message.substr(length / 2));
    const auto replies = ReceiveWhatComes();
    ExpectEnd();
    if (replies.empty()) continue;
    EXPECT_TRUE(HasError(replies.at(1), kNbdOk));
    EXPECT_TRUE(SameBytes(image().Read(0, length), data));
  }
}

TEST_P(EachStyle, AnswersAPrefixOfTheRequestsAndCarriesOutNoOther) {
  StartTransmission(GetParam());
  Bytes batch;
  for (uint64_t i = 0; i < 1000; ++i) {
    batch += peer().Prepare({.type = kCmdWrite,
                             .offset = i * kPage,
                             .length = kPage,
                             .cookie = i + 1},
                            Pattern(i, kPage, 5));
  }
  peer().Send(batch.substr(0, batch.size() / 2 + 1000));
  Begin();
  peer().TrySend(batch.substr(batch.size() / 2 + 1000));
  const auto replies = ReceiveWhatComes();
  ExpectEnd();
  uint64_t cookie = 1;
  for (const auto& [answered, reply] : replies) {
    EXPECT_EQ(answered, cookie++);
    EXPECT_TRUE(HasError(reply, kNbdOk));
    EXPECT_TRUE(SameBytes(image().Read((answered - 1) * kPage, kPage),
                          Pattern(answered - 1, kPage, 5)));
  }
  for (; cookie <= 1000; ++cookie) {
    const uint64_t offset = (cookie - 1) * kPage;
    EXPECT_TRUE(SameBytes(image().Read(offset, kPage), Pattern(offset, kPage)));
  }
}

TEST_P(EachStyle, WhatWasAnsweredIsOnStableStorage) {
  NEED_OR_SKIP(image().SeesUnwrittenPages(),
               "the kernel does not tell dirty pages");
  StartTransmission(GetParam());
  for (uint64_t offset = 0; offset < kImageSize; offset += 1 << 20) {
    EXPECT_TRUE(HasError(
        peer().Transact({.type = kCmdWrite, .offset = offset, .length = 100000},
                        Pattern(offset, 100000, 5)),
        kNbdOk));
  }
  Begin();
  // The client may connect elsewhere from here on.
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  EXPECT_EQ(image().UnwrittenPages(0, kImageSize), 0u);
  ExpectEnd();
}

TEST_P(EachStyle, AllCommandsThatWereReceivedAreAnswered) {
  StartTransmission(GetParam());
  Bytes batch;
  uint64_t cookie = 0;
  for (const uint16_t type :
       {kCmdRead, kCmdTrim, kCmdWriteZeroes, kCmdCache, kCmdFlush}) {
    batch += peer().Prepare({.type = type,
                             .length = type == kCmdFlush ? 0 : kPage,
                             .cookie = ++cookie});
  }
  peer().Send(batch);
  peer().WaitUntilRead();
  Begin();
  const auto replies = ReceiveWhatComes();
  EXPECT_EQ(replies.size(), cookie);
  for (const auto& [answered, reply] : replies) {
    EXPECT_TRUE(HasError(reply, kNbdOk)) << answered;
  }
  ExpectEnd();
}

TEST_P(EachStyle, WhatALimitOfTheRateHoldsIsAnsweredAtOnce) {
  // Alone, the second read would have to wait for hours.
  StartTransmission(GetParam(), {}, {"--max-iops=1:1"});
  Bytes batch;
  for (uint64_t cookie = 1; cookie <= 600; ++cookie) {
    batch += peer().Prepare({.type = cookie % 2 == 0 ? kCmdRead : kCmdTrim,
                             .length = kPage,
                             .cookie = cookie});
  }
  peer().Send(batch);
  peer().WaitUntilRead();
  Begin();
  const auto replies = ReceiveWhatComes();
  EXPECT_EQ(replies.size(), 600u);
  for (const auto& [cookie, reply] : replies) {
    EXPECT_TRUE(HasError(reply, kNbdOk)) << cookie;
  }
  ExpectEnd();
}

TEST_P(EachStyle, AShutdownThatFollowsRefusesAgain) {
  StartTransmission(GetParam());
  peer().Send(
      RequestMessage(GetParam(),
                     {.type = kCmdWrite, .length = 100000, .cookie = 1}) +
      Bytes(50000, 'x'));
  peer().WaitUntilRead();
  Begin();
  session().server().Signal(SIGTERM);
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

class DrainOver : public Drain,
                  public testing::WithParamInterface<Transport> {};

TEST_P(DrainOver, AnyStreamHasAllRepliesBeforeItsEnd) {
  StartTransmission(Style::kStructured, {.transport = GetParam()});
  Bytes batch;
  for (uint64_t i = 0; i < 100; ++i) {
    batch +=
        peer().Prepare({.type = kCmdRead, .length = 100000, .cookie = i + 1});
  }
  peer().SendWithoutReading(batch);
  EXPECT_FALSE(peer().AtEnd());
  Begin();
  const auto replies = ReceiveWhatComes();
  EXPECT_EQ(replies.size(), 100u);
  ExpectEnd();
}

INSTANTIATE_TEST_SUITE_P(Stream, DrainOver,
                         testing::Values(Transport::kTcp, Transport::kPipes),
                         [](const auto& tested) {
                           return tested.param == Transport::kTcp ? "Tcp"
                                                                  : "Pipes";
                         });

}  // namespace
