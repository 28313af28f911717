// A drain while the storage takes long: longer than a shutdown waits for the
// client, and longer than a drain waits for a trim.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "base/shutdown_notice.h"
#include "base/steady_clock.h"
#include "stream/channel.h"
#include "support/fake_export.h"
#include "support/memory_stream.h"
#include "support/wire.h"
#include "transmission/progress.h"
#include "transmission/transmission.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Event;
using nbdtest::FakeExport;
using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;

constexpr uint64_t kSize = uint64_t{1} << 44;

UniqueFd File() {
  UniqueFd file(memfd_create("export", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.get(), kSize), 0);
  return file;
}

class SlowStorage : public FakeExport {
 public:
  SlowStorage(Facts facts, std::function<void()> on_call, absl::Duration time)
      : FakeExport(File(), facts), on_call_(std::move(on_call)), time_(time) {}

  int Flush() override {
    // The last one has no client.
    if (++flushes > 1) return 0;
    on_call_();
    poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(time_)));
    return 0;
  }
  int Trim(uint64_t, uint64_t) override {
    if (pieces++ == 0) on_call_();
    poll(nullptr, 0, /*timeout=*/10);
    return 0;
  }

  std::atomic<int> flushes = 0;
  std::atomic<int> pieces = 0;

 private:
  const std::function<void()> on_call_;
  const absl::Duration time_;
};

class DrainTest : public testing::Test {
 protected:
  Ending Transmit(MemoryPeer& peer, std::shared_ptr<Export> target) {
    Negotiated negotiated;
    negotiated.target = std::move(target);
    negotiated.promises.size_bytes = kSize;
    negotiated.promises.headers = Headers::kExtended;
    negotiated.promises.transmission_flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_TRIM;
    negotiated.style = ReplyStyle::kExtended;
    Channel channel(std::make_unique<MemoryStream>(peer), signal_.fd(),
                    absl::InfiniteDuration(), nullptr, [this] {
                      signal_.Clear();
                      on_told_();
                      return told_.load();
                    });
    ServiceManager manager;
    Statistics statistics;
    Progress progress(manager, statistics, "");
    const Log log{{LogDestination::kNull, /*verbose=*/false,
                   /*standard_error_is_peer=*/true}};
    return Transmission({.channel = channel,
                         .negotiated = negotiated,
                         .log = log,
                         .statistics = statistics,
                         .progress = progress})
        .Run();
  }

  void Tell(Shutdown told) {
    told_ = told;
    signal_.Set();
  }

  std::shared_ptr<SlowStorage> Storage(
      Shutdown told, absl::Duration time = absl::ZeroDuration()) {
    Export::Facts facts;
    facts.size_bytes = kSize;
    return std::make_shared<SlowStorage>(
        facts, [this, told] { Tell(told); }, time);
  }

  Event signal_;
  std::atomic<Shutdown> told_ = Shutdown::kNone;
  std::function<void()> on_told_ = [] {};
};

Bytes Message(nbdtest::Request request) {
  return nbdtest::ExtendedRequestMessage(request);
}

// The bytes of a successful extended reply without data.
constexpr size_t kReplyBytes = 32;

TEST_F(DrainTest, AnswersWhatTheStorageFinishesLate) {
  MemoryPeer peer;
  peer.Send(Message({.type = nbdtest::kCmdFlush, .cookie = 1}));
  // Much longer than a client has to read its replies after a shutdown.
  const auto storage =
      Storage(Shutdown::kDrain, kShutdownLimit + absl::Milliseconds(500));
  const Ending ending = Transmit(peer, storage);
  EXPECT_EQ(ending.status, ExitStatus::kOk);
  EXPECT_EQ(ending.reason, "the connection has been drained");
  EXPECT_EQ(peer.Receive().size(), kReplyBytes);
  EXPECT_EQ(storage->flushes, 2) << "the last one makes all of it stable";
}

TEST_F(DrainTest, ATrimThatTakesTooLongEndsWithoutAReply) {
  MemoryPeer peer;
  peer.Send(Message({.type = nbdtest::kCmdTrim, .length = kSize, .cookie = 1}) +
            Message({.type = nbdtest::kCmdRead, .length = 1, .cookie = 2}));
  const auto storage = Storage(Shutdown::kDrain);
  const absl::Time start = SteadyNow();
  const Ending ending = Transmit(peer, storage);
  EXPECT_EQ(ending.reason, "the connection has been drained");
  EXPECT_GE(SteadyNow() - start, kDrainPatience);
  // Of the read alone.
  EXPECT_EQ(peer.Receive().size(), kReplyBytes + 8 + 1);
  EXPECT_LT(storage->pieces, 1 << 16);
}

// SIGTERM after the drain has begun: the trim ends within a second.
TEST_F(DrainTest, AShutdownThatFollowsHasItsOwnTime) {
  MemoryPeer peer;
  peer.Send(Message({.type = nbdtest::kCmdTrim, .length = kSize, .cookie = 1}));
  Tell(Shutdown::kDrain);
  const auto storage = Storage(Shutdown::kNow);
  const Ending ending = Transmit(peer, storage);
  EXPECT_EQ(ending.status, ExitStatus::kOk);
  EXPECT_GT(peer.Receive().size(), kReplyBytes) << "NBD_ESHUTDOWN";
}

// Behind the rest of a message, nothing is received any more: the client has
// sent it to a server that it will leave.
TEST_F(DrainTest, ReceivesTheRestOfOneMessage) {
  const Bytes read =
      Message({.type = nbdtest::kCmdRead, .length = 1, .cookie = 1});
  MemoryPeer peer;
  peer.Send(read + read.substr(0, 13));
  told_ = Shutdown::kDrain;
  signal_.Set();
  int calls = 0;
  on_told_ = [&] {
    // At the second call, the drain has begun.
    if (++calls == 1) signal_.Set();
    if (calls == 2) peer.Send(read.substr(13) + read + read);
  };
  const Ending ending = Transmit(peer, Storage(Shutdown::kNone));
  EXPECT_EQ(ending.reason, "the connection has been drained");
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(peer.Receive().size(), 2 * (kReplyBytes + 8 + 1));
}

}  // namespace
}  // namespace nbdinetd
