// On every way that a request may take, it counts once, when its reply has been
// sent.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "base/statistics.h"
#include "support/fake_export.h"
#include "support/memory_stream.h"
#include "support/wire.h"
#include "transmission/transmission.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::MemoryPeer;
using nbdtest::RequestMessage;

constexpr size_t kSize = 4 << 20;

// Where reads are, as if the page cache had them or not.
class Target : public nbdtest::FakeExport {
 public:
  Target(UniqueFd fd, Facts facts, bool cached)
      : FakeExport(std::move(fd), facts), cached_(cached) {}

  size_t ReadCached(uint64_t offset, absl::Span<char> out) override {
    return cached_ ? FakeExport::ReadCached(offset, out) : 0;
  }
  bool IsCached(uint64_t offset, uint64_t length) override {
    return cached_ && FakeExport::IsCached(offset, length);
  }
  bool WriteWouldWait(uint64_t, uint64_t) override { return !cached_; }
  bool writes_busy() const override { return !cached_; }

 private:
  const bool cached_;
};

struct Scenario {
  ReplyStyle style = ReplyStyle::kStructured;
  bool cached = true;
  bool threads = true;
  LiveLimits limits = {};
};

class Histograms : public testing::Test {
 protected:
  // Serves what `peer_` has sent, up to the end of the connection.
  Ending Serve(const Scenario& scenario) {
    UniqueFd file(memfd_create("export", MFD_CLOEXEC));
    // Pages that were never written are in no page cache.
    EXPECT_EQ(write(file.get(), Bytes(kSize, 'x').data(), kSize),
              ssize_t{kSize});
    Export::Facts facts;
    facts.size_bytes = kSize;
    Negotiated negotiated;
    negotiated.target =
        std::make_shared<Target>(std::move(file), facts, scenario.cached);
    negotiated.promises.size_bytes = kSize;
    negotiated.promises.block_status = scenario.style != ReplyStyle::kSimple;
    negotiated.promises.transmission_flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
        NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_CACHE;
    negotiated.style = scenario.style;
    nbdtest::Event shutdown;
    Channel channel(std::make_unique<nbdtest::MemoryStream>(*peer_),
                    shutdown.fd());
    ServiceManager manager;
    Progress progress(manager, statistics_, "");
    const Log log({LogDestination::kNull, false, false});
    return Transmission(
               {.channel = channel,
                .negotiated = negotiated,
                .log = log,
                .statistics = statistics_,
                .progress = progress,
                .limits = &scenario.limits,
                .event_fd = scenario.threads ? CreateEventFd() : UniqueFd()})
        .Run();
  }

  void Send(uint16_t type, uint64_t offset, uint32_t length,
            uint16_t flags = 0) {
    Bytes message = RequestMessage({.type = type,
                                    .flags = flags,
                                    .offset = offset,
                                    .length = length,
                                    .cookie = ++cookie_});
    if (type == NBD_CMD_WRITE) message += Bytes(length, 'x');
    peer_->Send(message);
  }

  uint64_t requests(Command command) const {
    return statistics_.of(command).latency.count();
  }
  const SizeHistogram& sizes(Command command) const {
    return statistics_.of(command).size;
  }

  std::unique_ptr<MemoryPeer> peer_ = std::make_unique<MemoryPeer>();
  Statistics statistics_;
  uint64_t cookie_ = 0;
};

// Long and short, durable and not, good and bad.
TEST_F(Histograms, EachRequestCountsOnceOnEachWay) {
  LiveLimits paced;
  paced.now.requests.reads = paced.now.requests.writes = {100000, 100};
  paced.now.requests.together = true;
  paced.now.requests.given = 1;
  for (const ReplyStyle style :
       {ReplyStyle::kSimple, ReplyStyle::kStructured}) {
    for (const bool cached : {true, false}) {
      for (const bool threads : {true, false}) {
        for (const LiveLimits& limits : {LiveLimits(), paced}) {
          SCOPED_TRACE(testing::Message()
                       << "structured " << (style == ReplyStyle::kStructured)
                       << ", cached " << cached << ", threads " << threads
                       << ", paced " << limits.now.requests.given);
          statistics_ = Statistics();
          peer_ = std::make_unique<MemoryPeer>();
          for (const uint32_t length : {0u, 512u, 4096u, 1u << 20, 3u << 20}) {
            Send(NBD_CMD_READ, 4096, length);
            Send(NBD_CMD_WRITE, 512, length);
            Send(NBD_CMD_WRITE, 512, length, NBD_CMD_FLAG_FUA);
          }
          Send(NBD_CMD_READ, kSize, 512);
          Send(NBD_CMD_WRITE, kSize, 512);
          Send(NBD_CMD_FLUSH, 0, 0);
          Send(NBD_CMD_FLUSH, 0, 0);
          Send(NBD_CMD_TRIM, 0, 2 << 20);
          Send(NBD_CMD_TRIM, 1, 0xffffffff);
          Send(NBD_CMD_WRITE_ZEROES, 0, 8192);
          Send(NBD_CMD_CACHE, 0, 512);
          Send(NBD_CMD_BLOCK_STATUS, 0, kSize);
          Send(77, 0, 0);
          peer_->Close();
          EXPECT_EQ(Serve({style, cached, threads, limits}).status,
                    ExitStatus::kOk);
          const bool knows_status = style == ReplyStyle::kStructured;
          EXPECT_EQ(requests(Command::kRead), 6u);
          EXPECT_EQ(requests(Command::kWrite), 11u);
          EXPECT_EQ(requests(Command::kFlush), 2u);
          EXPECT_EQ(requests(Command::kTrim), 2u);
          EXPECT_EQ(requests(Command::kWriteZeroes), 1u);
          EXPECT_EQ(requests(Command::kCache), 1u);
          EXPECT_EQ(requests(Command::kBlockStatus), 1u);
          // An unknown command.
          EXPECT_EQ(statistics_.requests, 6 + 11 + 2 + 2 + 3 + 1u);
          EXPECT_EQ(statistics_.errors, 3 + 1 + (knows_status ? 0 : 1u));
          // Of those that succeeded.
          EXPECT_EQ(sizes(Command::kRead).count(), 5u);
          EXPECT_EQ(sizes(Command::kRead).sum(), statistics_.bytes_read);
          EXPECT_EQ(sizes(Command::kWrite).count(), 10u);
          EXPECT_EQ(sizes(Command::kWrite).sum(), statistics_.bytes_written);
          EXPECT_EQ(sizes(Command::kFlush).count(), 0u);
          EXPECT_EQ(sizes(Command::kTrim).count(), 1u);
          EXPECT_EQ(sizes(Command::kTrim).sum(), 2u << 20);
          EXPECT_EQ(sizes(Command::kWriteZeroes).sum(), 8192u);
          EXPECT_EQ(sizes(Command::kCache).sum(), 512u);
          EXPECT_EQ(sizes(Command::kBlockStatus).count(), knows_status);
          EXPECT_GT(statistics_.longest_request(), absl::ZeroDuration());
        }
      }
    }
  }
}

TEST_F(Histograms, AReadThatIsSentAsAFileCountsOnce) {
  for (const ReplyStyle style :
       {ReplyStyle::kSimple, ReplyStyle::kStructured}) {
    statistics_ = Statistics();
    peer_ = std::make_unique<MemoryPeer>();
    peer_->AllowFiles();
    Send(NBD_CMD_READ, 0, 4096);
    Send(NBD_CMD_READ, 8192, 1 << 20);
    Send(NBD_CMD_READ, 0, 4096);
    peer_->Close();
    Serve({.style = style});
    EXPECT_EQ(statistics_.bytes_sent_by_sendfile, 1u << 20);
    EXPECT_EQ(requests(Command::kRead), 3u);
    EXPECT_EQ(sizes(Command::kRead).sum(), statistics_.bytes_read);
  }
}

// More of them than there are runs, and than one send holds.
TEST_F(Histograms, ManyDifferentRequestsOfOneReceiveCountOnceEach) {
  constexpr uint64_t kPairs = 1000;
  for (uint64_t i = 0; i < kPairs; ++i) {
    Send(NBD_CMD_READ, 0, 512);
    Send(NBD_CMD_READ, 0, 1024);
  }
  peer_->Close();
  Serve({});
  EXPECT_EQ(requests(Command::kRead), 2 * kPairs);
  EXPECT_EQ(sizes(Command::kRead).count(0), kPairs);
  EXPECT_EQ(sizes(Command::kRead).count(1), kPairs);
  EXPECT_EQ(sizes(Command::kRead).sum(), 1536 * kPairs);
}

TEST_F(Histograms, ARequestWhoseReplyCannotBeSentDoesNotCount) {
  for (const bool cached : {true, false}) {
    statistics_ = Statistics();
    peer_ = std::make_unique<MemoryPeer>();
    peer_->BreakAfter(0, -EPIPE);
    for (const uint32_t length : {512u, 4096u, 1u << 20}) {
      Send(NBD_CMD_READ, 0, length);
      Send(NBD_CMD_WRITE, 0, length);
    }
    peer_->Close();
    EXPECT_NE(Serve({.cached = cached}).status, ExitStatus::kOk);
    for (const Command command : kAllCommands) {
      EXPECT_EQ(requests(command), 0u);
      EXPECT_EQ(sizes(command).count(), 0u);
    }
    EXPECT_EQ(statistics_.longest_request(), absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace nbdinetd
