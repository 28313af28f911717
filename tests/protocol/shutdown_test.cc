// SIGTERM in each phase of a connection: what is under way is answered, what
// comes later is told that the server shuts down, written data is on stable
// storage, and the status is 0. How long the server still listens is its own
// affair: no test here depends on it, save that a client which talks without a
// pause hears of the shutdown before the end of the stream.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "support/signalled_session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol, in every line of
                          // this file.

class Shutdown : public SignalledSession {
 protected:
  void Terminate() { Signal(SIGTERM); }
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

class EachStyle : public Shutdown, public testing::WithParamInterface<Style> {};

INSTANTIATE_TEST_SUITE_P(Replies, EachStyle, testing::ValuesIn(kEachStyle),
                         [](const auto& tested) {
                           return NameOf(tested.param);
                         });

TEST_P(EachStyle, AnIdleConnectionIsClosedWithoutAByte) {
  StartTransmission(GetParam());
  EXPECT_TRUE(
      HasError(peer().Transact({.type = kCmdRead, .length = kPage}), kNbdOk));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
  EXPECT_NE(session().WaitForExit().standard_error.find(" ended: "),
            std::string::npos);
}

TEST_P(EachStyle, LaterRequestsAreEshutdownAndNothingIsDoneForThem) {
  StartTransmission(GetParam());
  Terminate();
  Reply reply;
  do {
    reply = peer().Transact({.type = kCmdRead, .length = kPage});
  } while (reply.error == kNbdOk);
  EXPECT_TRUE(HasError(reply, kNbdEshutdown));
  const bool has_chunks = GetParam() != Style::kSimple;
  EXPECT_EQ(reply.structured, has_chunks);
  EXPECT_EQ(reply.message.empty(), !has_chunks);
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

TEST_P(EachStyle, RequestsUnderWayAreAnsweredAndOnlyTheLaterOnesRefused) {
  StartTransmission(GetParam());
  SendReads();
  Terminate();
  uint64_t first_refused = kReads + 1;
  uint64_t last_answered = 0;
  for (const auto& [cookie, reply] : peer().ReceiveAllReplies()) {
    if (reply.error != kNbdOk) {
      EXPECT_TRUE(HasError(reply, kNbdEshutdown));
      first_refused = std::min(first_refused, cookie);
    } else {
      ExpectData(cookie, reply);
      last_answered = std::max(last_answered, cookie);
    }
  }
  EXPECT_GE(last_answered, 1u);
  EXPECT_LT(last_answered, first_refused);
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_P(EachStyle, AClientThatNeverStopsAskingDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  Terminate();
  AskUntilTheEnd(GetParam());
  ExpectEnd();
}

TEST_P(EachStyle, AClientThatNeverReadsDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  Bytes batch;
  for (int i = 0; i < 20; ++i) {
    batch += RequestMessage(
        GetParam(), {.type = kCmdRead, .length = kImageSize, .cookie = 7});
  }
  peer().SendWithoutReading(batch);
  EXPECT_FALSE(peer().AtEnd());
  Terminate();
  ExpectEnd();
}

TEST_P(EachStyle, AWriteWhosePayloadIsHalfThereIsAnsweredWhenTheRestComes) {
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

TEST_P(EachStyle, APayloadThatNeverEndsDoesNotKeepTheServer) {
  for (uint32_t length : {uint32_t{1000}, uint32_t{2 << 20}}) {
    StartTransmission(GetParam());
    peer().Send(
        RequestMessage(GetParam(),
                       {.type = kCmdWrite, .length = length, .cookie = 1}) +
        Bytes(length / 2, 'x'));
    Terminate();
    EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
    ExpectEnd();
  }
}

TEST_P(EachStyle, AHeaderThatNeverEndsDoesNotKeepTheServer) {
  StartTransmission(GetParam());
  peer().Send(RequestMessage(GetParam(), {.type = kCmdRead, .length = 512})
                  .substr(0, 13));
  Terminate();
  EXPECT_TRUE(SameBytes(peer().ReceiveToEnd(), ""));
  ExpectEnd();
}

TEST_P(EachStyle, WhatWasWrittenIsOnStableStorageAfterwards) {
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

TEST_P(EachStyle, WritesThatWereAnsweredWhileItShutDownAreOnStableStorageToo) {
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

TEST_P(EachStyle, ASecondSignalChangesNothing) {
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

TEST_P(EachStyle, AClientThatLeavesMeanwhileIsNoFault) {
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
  StartTransmission(Style::kStructured, {.transport = GetParam()});
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

// -- Every state in which a connection waits
//
// A shutdown is a state: it may come while the server waits for whatever it
// likes, and it ends. A connection for each state, all of them at once, since
// each may take a second.

struct State {
  std::string name;
  std::vector<std::string> options = {};
  // Brings the connection there. Nothing more is sent or read before the
  // signal.
  void (*reach)(Peer& peer);
  // What the client sends when the server has heard the signal.
  Bytes then = {};
  // The option to which NBD_REP_ERR_SHUTDOWN is the only answer by then.
  uint32_t refused_option = 0;
  bool small_buffers = false;
};

const std::vector<uint16_t> kNoInfos;

// An option that arrives in two parts, cut behind `at` bytes of its payload.
Bytes GoMessage() { return OptionMessage(kOptGo, InfoPayload("", kNoInfos)); }
Bytes NameMessage() { return OptionMessage(kOptExportName, "some name"); }
constexpr size_t kCut = 18;

// Asks for more than the socket and the client's side of it hold, and doesn't
// read.
void AskForMuch(Peer& peer, uint32_t length) {
  peer.EnterTransmission(true);
  Bytes batch;
  for (int i = 0; i < 64; ++i) {
    batch += RequestMessage({.type = kCmdRead, .length = length, .cookie = 7});
  }
  peer.Send(batch);
}

void SendPart(Peer& peer, const Request& request, size_t payload_bytes) {
  peer.EnterTransmission(true);
  peer.Send(RequestMessage(request) + Bytes(payload_bytes, 'x'));
}

// Sends half of the payload.
void SendPartExtended(Peer& peer, const Request& request) {
  peer.EnterTransmission(Style::kExtended, /*allocation_context=*/true);
  peer.Send(ExtendedRequestMessage(request) + Bytes(request.length / 2, 'x'));
}

std::vector<State> States(const std::string& directory) {
  const std::string list = "--directory=" + directory;
  return {
      {.name = "before the client flags",
       .reach = [](Peer& peer) { peer.ReceiveGreeting(); }},
      {.name = "inside the client flags",
       .reach =
           [](Peer& peer) {
             peer.ReceiveGreeting();
             peer.Send(Bytes(2, '\0'));
           }},
      {.name = "between options",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Negotiate(kOptList);
           }},
      {.name = "inside an option's header",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Send(GoMessage().substr(0, 9));
           }},
      {.name = "inside NBD_OPT_GO",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Send(GoMessage().substr(0, kCut));
           }},
      {.name = "inside NBD_OPT_GO, whose rest comes",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Send(GoMessage().substr(0, kCut));
           },
       .then = GoMessage().substr(kCut),
       .refused_option = kOptGo},
      {.name = "inside NBD_OPT_EXPORT_NAME",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Send(NameMessage().substr(0, kCut));
           }},
      {.name = "inside NBD_OPT_EXPORT_NAME, whose rest comes",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Send(NameMessage().substr(0, kCut));
           },
       .then = NameMessage().substr(kCut)},
      {.name = "inside an option that is too long",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.Send(
                 OptionMessage(kOptInfo, Bytes(1 << 20, 'x')).substr(0, 70000));
           }},
      {.name = "inside a list that the client doesn't read",
       .options = {list},
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.SendOption(kOptList);
           },
       .small_buffers = true},
      {.name = "in transmission, idle",
       .reach = [](Peer& peer) { peer.EnterTransmission(true); }},
      {.name = "in transmission by NBD_OPT_EXPORT_NAME, idle",
       .reach =
           [](Peer& peer) {
             peer.Open();
             peer.SendOption(kOptExportName, "");
             peer.Receive(10);
           }},
      {.name = "inside a request's header",
       .reach =
           [](Peer& peer) {
             peer.EnterTransmission(true);
             peer.Send(RequestMessage({.length = 512}).substr(0, 13));
           }},
      {.name = "inside a short write",
       .reach =
           [](Peer& peer) {
             SendPart(peer, {.type = kCmdWrite, .length = 1000}, 500);
           }},
      {.name = "inside a long write",
       .reach =
           [](Peer& peer) {
             SendPart(peer, {.type = kCmdWrite, .length = 2 << 20}, 1 << 20);
           }},
      {.name = "inside a write that is refused",
       .reach =
           [](Peer& peer) {
             SendPart(peer,
                      {.type = kCmdWrite, .offset = 1u << 30, .length = 1000},
                      500);
           }},
      {.name = "inside an extended request's payload that is refused",
       .reach =
           [](Peer& peer) {
             SendPartExtended(peer, {.type = kCmdTrim,
                                     .flags = kCmdFlagPayloadLen,
                                     .length = 1000});
           }},
      {.name = "inside the payload of a block status",
       .reach =
           [](Peer& peer) {
             SendPartExtended(peer, {.type = kCmdBlockStatus,
                                     .flags = kCmdFlagPayloadLen,
                                     .length = 12});
           }},
      {.name = "inside replies that the client doesn't read",
       .reach = [](Peer& peer) { AskForMuch(peer, 64 << 10); }},
      {.name = "inside a file that the client doesn't read",
       .reach = [](Peer& peer) { AskForMuch(peer, kImageSize); }},
  };
}

struct Asking {
  std::string name;
  int signal;
  bool again = false;
  bool exclusive = false;
};

class EachState : public testing::TestWithParam<std::tuple<Transport, Asking>> {
 protected:
  struct Connection {
    State state;
    TempImage image;
    std::unique_ptr<Session> session;
  };

  static void SetUpTestSuite() {
    names_ = new TempDir;
    for (int i = 0; i < 600; ++i) {
      const std::string name = std::to_string(i) + std::string(200, 'n');
      std::ofstream(names_->path() + "/" + name).put('x');
    }
  }
  static void TearDownTestSuite() { delete names_; }

  Connection Reach(const State& state) {
    const auto [transport, asking] = GetParam();
    Connection connection{state, TempImage::WithPattern(kImageSize), nullptr};
    std::vector<std::string> arguments = state.options;
    // All are reached before the first is asked, which may take long.
    arguments.push_back("--handshake-timeout=10m");
    arguments.push_back("--stall-timeout=10m");
    if (asking.exclusive) arguments.push_back("--exclusive");
    if (state.options.empty()) arguments.push_back(connection.image.path());
    SessionSetup setup{.transport = transport};
    if (state.small_buffers) setup.socket_buffer_bytes = 16 << 10;
    connection.session = std::make_unique<Session>(arguments, setup);
    state.reach(connection.session->peer());
    return connection;
  }

  // Sends the signal, and what the client sends behind it.
  void Ask(Connection& connection) {
    const Asking& asking = std::get<1>(GetParam());
    ServerProcess& server = connection.session->server();
    connection.session->peer().WaitUntilRead();
    server.WaitUntilAsleep();
    const long sleeps = server.Sleeps();
    server.Signal(asking.signal);
    if (connection.state.then.empty()) return;
    server.WaitUntilItHasSlept(sleeps);
    connection.session->peer().TrySend(connection.state.then);
  }

  void ExpectEnd(Connection& connection) {
    SCOPED_TRACE(connection.state.name);
    const Asking& asking = std::get<1>(GetParam());
    Session& session = *connection.session;
    if (asking.again) session.server().Signal(asking.signal);
    EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitOk));
    if (connection.state.refused_option == 0) return;
    try {
      EXPECT_TRUE(
          HasType(session.peer().ReceiveAnswer(connection.state.refused_option),
                  kRepErrShutdown));
    } catch (const ConnectionEnded&) {
      // The rest came too late.
    }
    EXPECT_TRUE(SameBytes(session.peer().ReceiveToEnd(), ""));
  }

  const std::string& names() const { return names_->path(); }

 private:
  static TempDir* names_;
};
TempDir* EachState::names_ = nullptr;

std::string NameOf(const testing::TestParamInfo<EachState::ParamType>& tested) {
  const auto& [transport, asking] = tested.param;
  const std::string where = transport == Transport::kUnix  ? "Unix"
                            : transport == Transport::kTcp ? "Tcp"
                                                           : "Pipes";
  return where + asking.name;
}

TEST_P(EachState, EndsWhenItIsAskedTo) {
  std::vector<Connection> connections;
  for (const State& state : States(names())) {
    connections.push_back(Reach(state));
  }
  for (Connection& connection : connections) Ask(connection);
  for (Connection& connection : connections) ExpectEnd(connection);
}

INSTANTIATE_TEST_SUITE_P(
    Signal, EachState,
    testing::Combine(testing::Values(Transport::kUnix),
                     testing::Values(Asking{"Term", SIGTERM},
                                     Asking{"Int", SIGINT},
                                     Asking{"Drain", SIGUSR1},
                                     Asking{"Takeover", SIGURG, false,
                                            /*exclusive=*/true})),
    NameOf);
INSTANTIATE_TEST_SUITE_P(
    Stream, EachState,
    testing::Combine(testing::Values(Transport::kTcp, Transport::kPipes),
                     testing::Values(Asking{"TermTwice", SIGTERM,
                                            /*again=*/true})),
    NameOf);

TEST(ShutdownBeforeTheGreeting, IsNoticedWhileItCannotBeSent) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Bytes filler(1 << 16, 'x');
  while (send(ends[1], filler.data(), filler.size(), MSG_DONTWAIT) > 0) {
  }
  const TempImage image = TempImage::WithPattern(kImageSize);
  ServerProcess server(
      {.arguments = {image.path()}, .in = ends[1], .out = ends[1]});
  close(ends[1]);
  // It reads nothing; so it sleeps for nothing else.
  long sleeps;
  do {
    sleeps = server.Sleeps();
    server.WaitUntilAsleep();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  } while (server.Sleeps() != sleeps || sleeps == 0);
  server.Signal(SIGTERM);
  EXPECT_TRUE(ExitedWith(server.WaitForExit(), kExitOk));
  close(ends[0]);
}

class WhileItWaitsForTheExport
    : public testing::TestWithParam<std::tuple<const char*, int, uint32_t>> {};

TEST_P(WhileItWaitsForTheExport, EndsWhenItIsAskedTo) {
  const auto [kind, signal, option] = GetParam();
  const TempImage image = TempImage::WithPattern(kImageSize);
  const std::vector<std::string> arguments = {
      std::string("--exclusive=") + kind, image.path()};
  Session holder(arguments);
  holder.peer().EnterTransmission(true);
  // So that it can't leave, whoever asks.
  holder.server().Signal(SIGSTOP);
  Session session(arguments);
  session.peer().Open();
  session.peer().Send(option == kOptGo ? GoMessage() : NameMessage());
  session.peer().WaitUntilRead();
  session.server().WaitUntilAsleep();
  session.server().Signal(signal);
  if (option == kOptGo) {
    EXPECT_TRUE(HasType(session.peer().ReceiveAnswer(kOptGo), kRepErrShutdown));
  }
  EXPECT_TRUE(SameBytes(session.peer().ReceiveToEnd(), ""));
  EXPECT_TRUE(ExitedWith(session.WaitForExit(), kExitOk));
  holder.server().Signal(SIGCONT);
}

INSTANTIATE_TEST_SUITE_P(
    Exclusive, WhileItWaitsForTheExport,
    testing::Combine(testing::Values("wait", "takeover"),
                     testing::Values(SIGTERM, SIGINT, SIGURG),
                     testing::Values(kOptGo, kOptExportName)));

}  // namespace
