// Each guard of the loops is seen to act: a peer that never stops for a moment,
// so that there is always something to receive, can't keep a loop from looking
// at the time or at a shutdown.
//
// A client over a socket is too slow for that: between two of its sends the
// server finds nothing, and waits, and what it waits with has a limit of its
// own. So the peer is a stream here, from which each read brings as much as
// there is room for. It ends by itself after a while, so that a missing guard
// is a wrong ending, and not a test that hangs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/log.h"
#include "base/service_manager.h"
#include "base/steady_clock.h"
#include "base/timeouts.h"
#include "export/catalog.h"
#include "negotiation/negotiation.h"
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
using nbdtest::OptionMessage;
using nbdtest::Writer;

// How long the peer goes on. A server that needs so long for anything here is
// one that doesn't look.
constexpr absl::Duration kSupply = absl::Seconds(20);

constexpr size_t kSize = 1 << 20;

// First `begin`, then `message` again and again. What is written to it is
// taken, and forgotten.
class EndlessStream : public Stream {
 public:
  EndlessStream(Bytes begin, Bytes message)
      : next_(std::move(begin)),
        message_(std::move(message)),
        end_(SteadyNow() + kSupply) {
    readable_.Set();
  }

  // Called before each read with their number up to then.
  void set_before_read(std::function<void(size_t)> before_read) {
    before_read_ = std::move(before_read);
  }

  void set_max_read_bytes(size_t bytes) { max_read_bytes_ = bytes; }

  ssize_t Read(absl::Span<char> buffer) override {
    if (before_read_ != nullptr) before_read_(reads_);
    ++reads_;
    if (SteadyNow() >= end_) return 0;
    if (next_.empty() && message_.empty()) return -EAGAIN;
    const size_t size = std::min(buffer.size(), max_read_bytes_);
    while (next_.size() < size) next_ += message_;
    std::memcpy(buffer.data(), next_.data(), size);
    next_.erase(0, size);
    return static_cast<ssize_t>(size);
  }
  ssize_t Write(absl::Span<const iovec> pieces, bool) override {
    ssize_t total = 0;
    for (const iovec& piece : pieces)
      total += static_cast<ssize_t>(piece.iov_len);
    return total;
  }
  void Abort() override {}
  int input_fd() const override { return readable_.fd(); }
  int output_fd() const override { return writable_.fd(); }

 private:
  Bytes next_;
  const Bytes message_;
  const absl::Time end_;
  std::function<void(size_t)> before_read_;
  size_t reads_ = 0;
  size_t max_read_bytes_ = SIZE_MAX;
  Event readable_;
  Event writable_;
};

class GuardsTest : public testing::Test {
 protected:
  GuardsTest() {
    UniqueFd file(memfd_create("export", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(file.get(), kSize), 0);
    Export::Facts facts;
    facts.size_bytes = kSize;
    target_ = std::make_unique<FakeExport>(std::move(file), facts);
  }

  static std::unique_ptr<EndlessStream> Haggling() {
    return std::make_unique<EndlessStream>(
        Writer().U32(nbdtest::kClientFixedNewstyle).bytes(),
        OptionMessage(nbdtest::kOptList, ""));
  }
  static std::unique_ptr<EndlessStream> Asking() {
    return std::make_unique<EndlessStream>(
        "", nbdtest::RequestMessage(
                {.type = nbdtest::kCmdRead, .length = 1, .cookie = 7}));
  }

  // How option haggling ends with such a client.
  Ending Haggle(std::unique_ptr<Stream> stream, absl::Duration time_limit) {
    Channel channel(std::move(stream), shutdown_.fd());
    const auto catalog = Catalog::OfOne(std::move(target_), std::nullopt, "");
    auto outcome =
        Negotiation(channel, *catalog, log_, {.time_limit = time_limit}).Run();
    EXPECT_TRUE(std::holds_alternative<Ending>(outcome));
    return std::get<Ending>(outcome);
  }

  // How the transmission ends with such a client.
  Ending Transmit(std::unique_ptr<Stream> stream,
                  const Timeouts& timeouts = Timeouts()) {
    Negotiated negotiated;
    negotiated.target = target_;
    negotiated.promises.size_bytes = kSize;
    negotiated.promises.transmission_flags = NBD_FLAG_HAS_FLAGS;
    Channel channel(std::move(stream), shutdown_.fd(), timeouts.stall);
    ServiceManager manager;
    Progress progress(manager, statistics_, "");
    return Transmission({.channel = channel,
                         .negotiated = negotiated,
                         .log = log_,
                         .statistics = statistics_,
                         .progress = progress,
                         .idle_timeout = timeouts.idle})
        .Run();
  }

  Event shutdown_;
  std::shared_ptr<Export> target_;
  Statistics statistics_;
  const Log log_{{LogDestination::kNull, /*verbose=*/false,
                  /*standard_error_is_peer=*/true}};
};

TEST_F(GuardsTest, AClientThatNeverStopsHagglingCannotHideAShutdown) {
  auto client = Haggling();
  client->set_before_read([this](size_t reads) {
    if (reads == 3) shutdown_.Set();
  });
  const Ending ending = Haggle(std::move(client), absl::InfiniteDuration());
  EXPECT_EQ(ending.reason, "the server is shutting down");
  EXPECT_EQ(ending.status, ExitStatus::kOk);
}

TEST_F(GuardsTest, AClientThatNeverStopsHagglingHasItsTimeAndNoMore) {
  const Ending ending = Haggle(Haggling(), absl::Milliseconds(50));
  EXPECT_EQ(ending.reason, "client didn't finish the handshake within 50ms");
  EXPECT_EQ(ending.status, ExitStatus::kTimedOut);
}

// An option of 4 GiB, of which there is always more: it is read away, and the
// time for it is that of the handshake.
TEST_F(GuardsTest, AnOptionThatNeverEndsHasTheTimeOfTheHandshakeAndNoMore) {
  const Bytes begin = Writer().U32(nbdtest::kClientFixedNewstyle).bytes() +
                      OptionMessage(nbdtest::kOptList, "").substr(0, 12) +
                      Writer().U32(0xffffffff).bytes();
  const Ending ending =
      Haggle(std::make_unique<EndlessStream>(begin, Bytes(4096, 'x')),
             absl::Milliseconds(50));
  EXPECT_EQ(ending.reason, "client didn't finish the handshake within 50ms");
  EXPECT_EQ(ending.status, ExitStatus::kTimedOut);
}

// For a peer that is always quick the channel polls it by itself, and poll(2),
// which knows of the signal, isn't asked for a while: for so many waits, and
// not for ever.
TEST_F(GuardsTest, AClientThatIsAlwaysQuickHidesAShutdownForSoManyWaits) {
  constexpr int kWaits = 64;
  int most = 0;
  for (int i = 0; i < 30; ++i) {
    Event shutdown;
    auto client = Asking();
    client->set_max_read_bytes(28);  // quick enough
    Channel channel(std::move(client), shutdown.fd());
    const auto wait = [&] {
      const Channel::Events events =
          channel.Wait({.patience = Channel::Patience::kPoll});
      if (events.input) {
        EXPECT_EQ(channel.Receive(), Channel::Receipt::kData);
        channel.Consume(channel.input().size());
      }
      return events;
    };
    for (int warm = 0; warm < 30; ++warm) EXPECT_TRUE(wait().input);
    shutdown.Set();
    int waits = 1;
    while (!wait().shutdown && waits < 100 * kWaits) ++waits;
    most = std::max(most, waits);
  }
  EXPECT_LE(most, kWaits + 1);
  // It does poll: else this would prove nothing. A busy machine may keep it
  // from doing so, now and then, but not each of many times.
  EXPECT_GT(most, 1);
}

TEST_F(GuardsTest, AClientThatNeverStopsAskingCannotHideAShutdown) {
  auto client = Asking();
  // Late enough for the loop to have become used to a quick client, for which
  // it polls itself instead of asking poll(2), which knows of the signal.
  client->set_before_read([this](size_t reads) {
    if (reads == 100) shutdown_.Set();
  });
  const Ending ending = Transmit(std::move(client));
  EXPECT_EQ(ending.reason, "the server is shutting down");
  EXPECT_EQ(ending.status, ExitStatus::kOk);
  EXPECT_GT(statistics_.requests, 0u);
  // It is told so meanwhile.
  EXPECT_GT(statistics_.errors, 0u);
}

// As over TLS, where a client may send nothing but what OpenSSL answers by
// itself.
TEST_F(GuardsTest, AClientThatSendsNothingForUsIsIdle) {
  Timeouts timeouts;
  timeouts.idle = absl::Milliseconds(50);
  const Ending ending =
      Transmit(std::make_unique<EndlessStream>("", ""), timeouts);
  EXPECT_EQ(ending.reason, "client was idle for 50ms");
  EXPECT_EQ(ending.status, ExitStatus::kTimedOut);
}

TEST_F(GuardsTest, AClientThatSendsNothingForUsInARequestStalls) {
  Timeouts timeouts;
  timeouts.stall = absl::Milliseconds(50);
  const Bytes request =
      nbdtest::RequestMessage(
          {.type = nbdtest::kCmdRead, .length = 1, .cookie = 7})
          .substr(0, 11);
  // Part of a header, and from then on reads that bring nothing.
  class Part : public EndlessStream {
   public:
    explicit Part(Bytes part) : EndlessStream("", ""), part_(std::move(part)) {}
    ssize_t Read(absl::Span<char> buffer) override {
      if (part_.empty()) return EndlessStream::Read(buffer);
      const size_t size = part_.size();
      std::memcpy(buffer.data(), part_.data(), size);
      part_.clear();
      return static_cast<ssize_t>(size);
    }

   private:
    Bytes part_;
  };
  const Ending ending = Transmit(std::make_unique<Part>(request), timeouts);
  EXPECT_EQ(ending.reason, "client stopped inside a request for 50ms");
  EXPECT_EQ(ending.status, ExitStatus::kTimedOut);
}

}  // namespace
}  // namespace nbdinetd
