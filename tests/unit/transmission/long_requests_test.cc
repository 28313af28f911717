// Requests that take long: a trim of 16 TiB, each of whose pieces takes a
// while. They hold up no other request, and end early when nobody waits for
// them any more.
//
// The export stops being slow after kFewPieces, so that a request that doesn't
// end early makes a test fail, and not hang.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "stream/channel.h"
#include "stream/stream.h"
#include "support/fake_export.h"
#include "support/memory_stream.h"
#include "support/wire.h"
#include "transmission/deferred_requests.h"
#include "transmission/failure_replies.h"
#include "transmission/progress.h"
#include "transmission/read_replies.h"
#include "transmission/reply_sender.h"
#include "transmission/transmission.h"
#include "transmission/workers.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Event;
using nbdtest::ExtendedRequestMessage;
using nbdtest::FakeExport;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;

constexpr uint64_t kHuge = uint64_t{1} << 44;
constexpr uint64_t kTrimCookie = 7;
constexpr size_t kFewPieces = 2000;

class SlowTrims : public FakeExport {
 public:
  SlowTrims(Facts facts, std::function<void(size_t)> on_piece,
            size_t failing_piece)
      : FakeExport(HugeFile(), facts),
        on_piece_(std::move(on_piece)),
        failing_piece_(failing_piece) {}

  int Trim(uint64_t, uint64_t) override {
    const Busy busy(*this, Busy::kWrites);
    const size_t piece = ++pieces;
    on_piece_(piece);
    if (piece < kFewPieces) poll(nullptr, 0, /*timeout=*/5);
    return piece == failing_piece_ ? EIO : 0;
  }

  std::atomic<size_t> pieces = 0;

 private:
  static UniqueFd HugeFile() {
    UniqueFd file(memfd_create("export", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(file.get(), kHuge), 0);
    return file;
  }

  const std::function<void(size_t)> on_piece_;
  const size_t failing_piece_;
};

Bytes TrimMessage(uint64_t length = kHuge) {
  return ExtendedRequestMessage(
      {.type = nbdtest::kCmdTrim, .length = length, .cookie = kTrimCookie});
}

struct Result {
  Ending ending;
  size_t pieces;
};

struct Scenario {
  std::function<void(size_t)> on_piece = [](size_t) {};
  absl::Duration stall_timeout = absl::InfiniteDuration();
  bool threads = true;
  size_t failing_piece = 0;  // counted from 1
};

class LongRequests : public testing::Test {
 protected:
  // How the transmission ends. `on_piece` gets the number of pieces so far.
  Result Transmit(std::unique_ptr<Stream> stream, Scenario scenario) {
    Export::Facts facts;
    facts.size_bytes = kHuge;
    const auto target = std::make_shared<SlowTrims>(facts, scenario.on_piece,
                                                    scenario.failing_piece);
    Negotiated negotiated;
    negotiated.target = target;
    negotiated.promises = {
        .size_bytes = kHuge,
        .transmission_flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                              NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM,
        .headers = Headers::kExtended};
    negotiated.style = ReplyStyle::kExtended;
    Channel channel(std::move(stream), shutdown_.fd(), scenario.stall_timeout);
    ServiceManager manager;
    Statistics statistics;
    Progress progress(manager, statistics, "");
    const Log log{{LogDestination::kNull, /*verbose=*/false,
                   /*standard_error_is_peer=*/true}};
    Ending ending = Transmission({.channel = channel,
                                  .negotiated = negotiated,
                                  .log = log,
                                  .statistics = statistics,
                                  .progress = progress,
                                  .event_fd = scenario.threads ? CreateEventFd()
                                                               : UniqueFd()})
                        .Run();
    return {std::move(ending), target->pieces};
  }

  Result Transmit(MemoryPeer& peer, const Bytes& requests,
                  Scenario scenario = {}) {
    peer.Send(requests);
    return Transmit(std::make_unique<MemoryStream>(peer), std::move(scenario));
  }

  Event shutdown_;
};

struct Reply {
  uint64_t cookie = 0;
  uint32_t error = nbdtest::kNbdOk;
  uint64_t error_offset = 0;

  bool operator==(const Reply&) const = default;
};

// The extended replies of which all bytes are there, in order.
std::vector<Reply> RepliesIn(const Bytes& bytes) {
  std::vector<Reply> replies;
  for (size_t at = 0; at + 32 <= bytes.size();) {
    nbdtest::Reader reader(std::string_view(bytes).substr(at));
    EXPECT_EQ(reader.U32(), nbdtest::kExtendedReplyMagic);
    const uint16_t flags = reader.U16();
    const uint16_t type = reader.U16();
    Reply reply = {.cookie = reader.U64()};
    reader.U64();
    const uint64_t length = reader.U64();
    if (reader.left() < length) break;
    if (type == nbdtest::kReplyError || type == nbdtest::kReplyErrorOffset) {
      reply.error = reader.U32();
      reader.Raw(reader.U16());
      if (type == nbdtest::kReplyErrorOffset) reply.error_offset = reader.U64();
    }
    if (flags == nbdtest::kReplyFlagDone) replies.push_back(reply);
    at += 32 + length;
  }
  return replies;
}

// -- When they end early

TEST_F(LongRequests, EndSomeTimeAfterAShutdown) {
  const Bytes disconnect = ExtendedRequestMessage({.type = nbdtest::kCmdDisc});
  struct Row {
    Bytes behind;
    bool threads;
    const char* reason;
  };
  for (const Row& row : {Row{"", true, "the server is shutting down"},
                         // A client that waits for its end to leave.
                         Row{disconnect, true, "client disconnected"},
                         Row{"", false, "the server is shutting down"}}) {
    MemoryPeer peer;
    const Result result = Transmit(peer, TrimMessage() + row.behind,
                                   {.on_piece =
                                        [this](size_t pieces) {
                                          if (pieces == 3) shutdown_.Set();
                                        },
                                    .threads = row.threads});
    EXPECT_EQ(result.ending.status, ExitStatus::kOk);
    EXPECT_EQ(result.ending.reason, row.reason);
    EXPECT_GT(result.pieces, 3u);
    EXPECT_LT(result.pieces, kFewPieces) << row.threads;
    EXPECT_EQ(RepliesIn(peer.Receive()),
              (std::vector<Reply>{{kTrimCookie, nbdtest::kNbdEshutdown}}));
    shutdown_.Clear();
  }
}

TEST_F(LongRequests, EndWithTheConnection) {
  const Bytes flush =
      ExtendedRequestMessage({.type = nbdtest::kCmdFlush, .cookie = 1});
  struct Row {
    const char* name;
    Bytes behind;
    void (*prepare)(MemoryPeer& peer);
    ExitStatus status;
  };
  const auto stay = [](MemoryPeer&) {};
  for (const Row& row :
       {Row{"reset", "", [](MemoryPeer& peer) { peer.Reset(); },
            ExitStatus::kProtocol},
        Row{"timed out", "", [](MemoryPeer& peer) { peer.Fail(ETIMEDOUT); },
            ExitStatus::kTimedOut},
        Row{"closed inside a request", flush.substr(0, 20),
            [](MemoryPeer& peer) { peer.Close(); }, ExitStatus::kProtocol},
        Row{"a reply that can't be sent", flush,
            [](MemoryPeer& peer) { peer.BreakAfter(0, -EPIPE); },
            ExitStatus::kProtocol},
        Row{"the same, and no further requests", flush,
            [](MemoryPeer& peer) {
              peer.BreakAfter(0, -EPIPE);
              peer.Close();
            },
            ExitStatus::kProtocol},
        Row{"the wrong magic", Bytes(32, 'x'), stay, ExitStatus::kProtocol},
        Row{"a payload that is too long",
            ExtendedRequestMessage(
                {.type = nbdtest::kCmdWrite, .length = kHuge, .cookie = 1}),
            stay, ExitStatus::kProtocol},
        Row{"stopped inside a request", flush.substr(0, 20), stay,
            ExitStatus::kTimedOut}}) {
    MemoryPeer peer;
    row.prepare(peer);
    const Result result = Transmit(peer, TrimMessage() + row.behind,
                                   {.stall_timeout = absl::Milliseconds(50)});
    EXPECT_EQ(result.ending.status, row.status) << row.name;
    EXPECT_LT(result.pieces, kFewPieces) << row.name;
  }
}

TEST_F(LongRequests, TellWhichPieceHasFailed) {
  for (const size_t piece : {1, 3}) {
    MemoryPeer peer;
    const Result result = Transmit(
        peer,
        TrimMessage() + ExtendedRequestMessage({.type = nbdtest::kCmdDisc}),
        {.failing_piece = piece});
    EXPECT_EQ(result.pieces, piece);
    EXPECT_EQ(RepliesIn(peer.Receive()),
              (std::vector<Reply>{{kTrimCookie, nbdtest::kNbdEio,
                                   (piece - 1) * kTaskPieceBytes}}));
  }
}

// -- A client that is gone

// The server's end of a stream, and the client's descriptors.
struct Pair {
  explicit Pair(bool pipes) {
    int ends[2];
    if (!pipes) {
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
      stream = std::make_unique<SocketStream>(UniqueFd(ends[0]));
      client_out.Reset(ends[1]);
      return;
    }
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]);
    client_out.Reset(ends[1]);
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    client_in.Reset(ends[0]);
    stream = std::make_unique<PipeStream>(std::move(in), UniqueFd(ends[1]));
  }
  void Send(const Bytes& bytes) {
    EXPECT_EQ(write(client_out.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  void Close() {
    client_out.Reset();
    client_in.Reset();
  }
  // The client sends no more, and still reads.
  void CloseHalf() {
    if (client_in.valid()) {
      client_out.Reset();
    } else {
      shutdown(client_out.get(), SHUT_WR);
    }
  }
  // What the client has got by now.
  Bytes Received() {
    const int fd = client_in.valid() ? client_in.get() : client_out.get();
    Bytes bytes;
    pollfd entry = {fd, POLLIN, 0};
    while (poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0) {
      char buffer[4096];
      const ssize_t n = read(fd, buffer, sizeof(buffer));
      if (n <= 0) break;
      bytes.append(buffer, static_cast<size_t>(n));
    }
    return bytes;
  }

  std::unique_ptr<Stream> stream;
  UniqueFd client_out;
  UniqueFd client_in;  // only of pipes
};

class GoneClient : public LongRequests,
                   public testing::WithParamInterface<bool> {
 protected:
  // Three pieces later than its requests, `leave` is called.
  Result Serve(const Bytes& requests, std::function<void()> leave,
               bool threads = true) {
    pair_.Send(requests);
    return Transmit(std::move(pair_.stream),
                    {.on_piece =
                         [leave = std::move(leave)](size_t pieces) {
                           if (pieces == 3) leave();
                         },
                     .threads = threads});
  }

  Pair pair_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Over, GoneClient, testing::Bool(),
                         [](const auto& tested) {
                           return tested.param ? "Pipes" : "UnixSocket";
                         });

TEST_P(GoneClient, EndsItsLongRequest) {
  const Result result = Serve(TrimMessage(), [this] { pair_.Close(); });
  EXPECT_EQ(result.ending.status, ExitStatus::kProtocol);
  EXPECT_EQ(result.ending.reason, "client left without reading its replies");
  EXPECT_LT(result.pieces, kFewPieces);
}

TEST_P(GoneClient, EndsItWithoutThreadsToo) {
  const auto leave = [this] { pair_.Close(); };
  const Result result = Serve(TrimMessage(), leave, /*threads=*/false);
  EXPECT_EQ(result.ending.status, ExitStatus::kProtocol);
  EXPECT_LT(result.pieces, kFewPieces);
}

// When nothing more is received, since there are too many tasks.
TEST_P(GoneClient, EndsItAmongTooManyRequests) {
  Bytes requests;
  for (size_t i = 0; i < kMaxTasks; ++i) requests += TrimMessage();
  const Result result = Serve(requests, [this] { pair_.Close(); });
  EXPECT_EQ(result.ending.status, ExitStatus::kProtocol);
  EXPECT_LT(result.pieces, kFewPieces);
}

constexpr size_t kSomePieces = 40;

TEST_P(GoneClient, StillReadsAfterItHasClosedOneDirection) {
  const Result result = Serve(TrimMessage(kSomePieces * kTaskPieceBytes),
                              [this] { pair_.CloseHalf(); });
  EXPECT_EQ(result.ending.status, ExitStatus::kOk);
  EXPECT_EQ(result.ending.reason, "client closed the connection");
  EXPECT_EQ(result.pieces, kSomePieces);
  EXPECT_EQ(RepliesIn(pair_.Received()),
            (std::vector<Reply>{{kTrimCookie, nbdtest::kNbdOk}}));
}

// "The server MUST handle all outstanding requests" (NBD_CMD_DISC).
TEST_P(GoneClient, HasItsRequestsCarriedOutAfterADisconnect) {
  const Result result =
      Serve(TrimMessage(kSomePieces * kTaskPieceBytes) +
                ExtendedRequestMessage({.type = nbdtest::kCmdDisc}),
            [this] { pair_.Close(); });
  EXPECT_EQ(result.ending.status, ExitStatus::kOk);
  EXPECT_EQ(result.ending.reason, "client disconnected");
  EXPECT_EQ(result.pieces, kSomePieces);
}

// -- What comes behind them

// A long write would wait in the kernel for the trim; so its pieces go to
// workers, and what is behind it is served.
TEST_F(LongRequests, HoldUpNoLongWriteAndNoRequestBehindIt) {
  constexpr uint64_t kLength = 4 * kPieceBytes + 1000;
  for (const uint16_t fua : {uint16_t{0}, nbdtest::kCmdFlagFua}) {
    Pair pair(/*pipes=*/false);
    pair.Send(TrimMessage());
    Bytes received;
    std::vector<Reply> before;
    const Bytes data(kLength, 'w');
    Bytes behind =
        ExtendedRequestMessage(
            {.type = nbdtest::kCmdWrite,
             .flags = static_cast<uint16_t>(fua | nbdtest::kCmdFlagPayloadLen),
             .offset = 1000,
             .length = kLength,
             .cookie = 8}) +
        data +
        ExtendedRequestMessage({.type = nbdtest::kCmdRead,
                                .offset = 1000,
                                .length = 1,
                                .cookie = 9});
    const auto on_piece = [&](size_t pieces) {
      if (!behind.empty()) {
        const ssize_t n = send(pair.client_out.get(), behind.data(),
                               behind.size(), MSG_DONTWAIT);
        if (n > 0) behind.erase(0, static_cast<size_t>(n));
      }
      received += pair.Received();
      before = RepliesIn(received);
      if (before.size() >= 2 || pieces == kFewPieces) shutdown_.Set();
    };
    const Result result =
        Transmit(std::move(pair.stream), {.on_piece = on_piece});
    EXPECT_EQ(result.ending.status, ExitStatus::kOk);
    EXPECT_LT(result.pieces, kFewPieces) << fua;
    std::sort(before.begin(), before.end(), [](const Reply& a, const Reply& b) {
      return a.cookie < b.cookie;
    });
    EXPECT_EQ(before,
              (std::vector<Reply>{{8, nbdtest::kNbdOk}, {9, nbdtest::kNbdOk}}));
    shutdown_.Clear();
  }
}

// -- Block status

// The next one is carried out here after a quick one, but not one of any
// length.
TEST(LongBlockStatus, IsAlwaysATask) {
  MemoryPeer peer;
  Event shutdown;
  Channel channel(std::make_unique<MemoryStream>(peer), shutdown.fd());
  Export::Facts facts;
  facts.size_bytes = kHuge;
  const auto on_piece = [](size_t) {};
  SlowTrims target(facts, on_piece, /*failing_piece=*/0);
  const Log log{{LogDestination::kNull, /*verbose=*/false,
                 /*standard_error_is_peer=*/true}};
  Statistics statistics;
  ReplySender replies(channel, ReplyStyle::kExtended, statistics);
  Workers workers(target);
  FailureReplies failures(target, replies, log);
  ReadReplies reads(target, replies, failures, kAdvertisedPayloadBytes);
  DeferredRequests deferred(workers, target, replies, reads, failures);
  const auto start = [&](uint64_t length) {
    Request request;
    request.type = NBD_CMD_BLOCK_STATUS;
    request.length = length;
    deferred.StartBlockStatus(request, /*is_last=*/true);
    const bool is_task = deferred.pending() > 0;
    while (deferred.pending() > 0) {
      channel.WaitForReadable(workers.event_fd());
      deferred.AnswerFinished();
    }
    return is_task;
  };
  // A busy machine may keep each of them from being quick for a while.
  while (start(4096)) {
  }
  EXPECT_TRUE(start(kHuge));
}

}  // namespace
}  // namespace nbdinetd
