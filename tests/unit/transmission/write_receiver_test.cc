// The pieces in which a long write goes to the file as it arrives.
#include "transmission/write_receiver.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "stream/channel.h"
#include "support/fake_export.h"
#include "support/memory_stream.h"
#include "transmission/deferred_requests.h"
#include "transmission/failure_replies.h"
#include "transmission/read_replies.h"
#include "transmission/reply_sender.h"
#include "transmission/workers.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kAligned = 128 << 10;

class RecordedWrites : public nbdtest::FakeExport {
 public:
  RecordedWrites() : FakeExport(Facts{.size_bytes = 1 << 30}) {}
  int Write(uint64_t offset, absl::Span<const char> data, bool) override {
    begins.push_back(offset);
    bytes.append(data.data(), data.size());
    return 0;
  }

  std::vector<uint64_t> begins;
  std::string bytes;
};

// Each number of bytes that one receive brings is a case.
class LongWrites : public testing::TestWithParam<size_t> {};

INSTANTIATE_TEST_SUITE_P(Receives, LongWrites,
                         testing::Values(1000, 40 << 10, 100 << 10, SIZE_MAX));

TEST_P(LongWrites, GoInPiecesThatBeginWhereLargeFoliosDo) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{1000}, 3 * kAligned}) {
    std::string payload(4 * kPieceBytes + 1000, '\0');
    for (size_t i = 0; i < payload.size(); ++i) {
      payload[i] = static_cast<char>(i * 31 + i / 251);
    }
    nbdtest::MemoryPeer peer;
    const nbdtest::Event shutdown;
    Channel channel(std::make_unique<nbdtest::MemoryStream>(peer),
                    shutdown.fd());
    RecordedWrites target;
    const Log log{{LogDestination::kNull, /*verbose=*/false,
                   /*standard_error_is_peer=*/true}};
    Statistics statistics;
    ReplySender replies(channel, ReplyStyle::kStructured, statistics);
    Workers workers(target);
    FailureReplies failures(target, replies, log);
    ReadReplies reads(target, replies, failures, kAdvertisedPayloadBytes);
    DeferredRequests deferred(workers, target, replies, reads, failures);
    WriteReceiver writes(channel, target, replies, failures, deferred);
    Request request;
    request.type = NBD_CMD_WRITE;
    request.offset = offset;
    request.length = payload.size();
    peer.LimitReads(GetParam());
    peer.Send(payload);
    writes.Begin(request, Verdict{});
    while (writes.under_way()) {
      if (!writes.Continue()) channel.Receive();
    }
    EXPECT_TRUE(target.bytes == payload);
    ASSERT_GT(target.begins.size(), 3u);
    EXPECT_EQ(target.begins[0], offset);
    for (size_t i = 1; i < target.begins.size(); ++i) {
      EXPECT_EQ(target.begins[i] % kAligned, 0u);
    }
    EXPECT_TRUE(replies.Flush());
    EXPECT_FALSE(peer.Receive().empty());
  }
}

}  // namespace
}  // namespace nbdinetd
