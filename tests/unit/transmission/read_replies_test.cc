// A long read of what is cached goes out in the way that takes less time, and
// its bytes are the same in both.
//
// The stream decides which way is slow: it works on the bytes many times over.
// How long that takes doesn't matter, only that it takes longer than the other
// way. The client goes on until the test has seen enough, or too much.
#include "transmission/read_replies.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/service_manager.h"
#include "stream/channel.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/memory_stream.h"
#include "support/wire.h"
#include "transmission/progress.h"
#include "transmission/transmission.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Event;
using nbdtest::Pattern;
using nbdtest::Writer;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kOffset = 8192;
constexpr uint64_t kCookie = 7;
// How often the slow way works on each byte.
constexpr int kSlow = 40;

// What has been sent in each way.
struct Sent {
  Way slow = Way::kSendFile;
  uint64_t by_file = 0;
  uint64_t by_copy = 0;
  uint64_t by_copy_in_a_row = 0;
  bool right = true;  // the bytes

  uint64_t total() const { return by_file + by_copy; }
};

// A client that requests the same read again and again until `enough`, and
// compares each simple reply.
class SameReads : public Stream {
 public:
  SameReads(Sent& sent, uint32_t length, bool (*enough)(const Sent&))
      : sent_(sent),
        request_(nbdtest::RequestMessage({.type = nbdtest::kCmdRead,
                                          .offset = kOffset,
                                          .length = length,
                                          .cookie = kCookie})),
        reply_(Writer()
                   .U32(nbdtest::kSimpleReplyMagic)
                   .U32(0)
                   .U64(kCookie)
                   .Raw(Pattern(kOffset, length))
                   .bytes()),
        enough_(enough) {
    ready_.Set();
  }

  ssize_t Read(absl::Span<char> buffer) override {
    if (enough_(sent_)) return 0;
    EXPECT_GE(buffer.size(), request_.size());
    std::memcpy(buffer.data(), request_.data(), request_.size());
    return static_cast<ssize_t>(request_.size());
  }

  ssize_t Write(absl::Span<const iovec> pieces, bool) override {
    ssize_t total = 0;
    for (const iovec& piece : pieces) {
      Take(static_cast<const char*>(piece.iov_base), piece.iov_len, Way::kCopy);
      total += static_cast<ssize_t>(piece.iov_len);
      // Not the reply's header alone.
      if (piece.iov_len <= 16) continue;
      sent_.by_copy += piece.iov_len;
      sent_.by_copy_in_a_row += piece.iov_len;
    }
    return total;
  }

  bool sends_files() const override { return true; }
  size_t held_bytes() const override { return 256 << 10; }
  ssize_t SendFile(int file, uint64_t offset, size_t length) override {
    char bytes[64 << 10];
    const ssize_t n = pread(file, bytes, std::min(length, sizeof(bytes)),
                            static_cast<off_t>(offset));
    if (n <= 0) return n < 0 ? -errno : 0;
    Take(bytes, static_cast<size_t>(n), Way::kSendFile);
    sent_.by_file += static_cast<size_t>(n);
    sent_.by_copy_in_a_row = 0;
    return n;
  }

  void Abort() override {}
  int input_fd() const override { return ready_.fd(); }
  int output_fd() const override { return ready_.fd(); }

 private:
  void Take(const char* bytes, size_t size, Way way) {
    for (int i = 0; i < (way == sent_.slow ? kSlow : 1); ++i) {
      Compare(bytes, size);
    }
    at_ = (at_ + size) % reply_.size();
  }
  void Compare(const char* bytes, size_t size) {
    for (size_t at = at_; size > 0; at = 0) {
      const size_t part = std::min(size, reply_.size() - at);
      sent_.right &= std::memcmp(bytes, reply_.data() + at, part) == 0;
      bytes += part;
      size -= part;
    }
  }

  Sent& sent_;
  const Bytes request_;
  const Bytes reply_;
  bool (*const enough_)(const Sent&);
  size_t at_ = 0;  // in the reply
  Event ready_;
};

// One piece, and more than one.
class LongReadTest : public testing::TestWithParam<uint32_t> {
 protected:
  Sent Serve(Way slow, bool (*enough)(const Sent&)) {
    Sent sent{.slow = slow};
    UniqueFd file(memfd_create("export", MFD_CLOEXEC));
    const Bytes pattern = Pattern(0, kMiB);
    EXPECT_EQ(write(file.get(), pattern.data(), pattern.size()), ssize_t{kMiB});
    Export::Facts facts;
    facts.size_bytes = kMiB;
    Negotiated negotiated;
    negotiated.target =
        std::make_unique<nbdtest::FakeExport>(std::move(file), facts);
    negotiated.promises.size_bytes = kMiB;
    negotiated.promises.transmission_flags = NBD_FLAG_HAS_FLAGS;
    negotiated.style = ReplyStyle::kSimple;
    Event shutdown;
    Channel channel(std::make_unique<SameReads>(sent, GetParam(), enough),
                    shutdown.fd());
    ServiceManager manager;
    Progress progress(manager, statistics_, "");
    const Log log({LogDestination::kNull, false, false});
    Transmission({.channel = channel,
                  .negotiated = negotiated,
                  .log = log,
                  .statistics = statistics_,
                  .progress = progress})
        .Run();
    return sent;
  }

  Statistics statistics_;
};

TEST_P(LongReadTest, IsCopiedWhereThatIsFaster) {
  // More than any look copies.
  const Sent sent = Serve(Way::kSendFile, [](const Sent& so_far) {
    return so_far.by_copy_in_a_row > 32 * kMiB || so_far.total() > 4096 * kMiB;
  });
  EXPECT_GT(sent.by_copy_in_a_row, 32 * kMiB);
  // Every connection begins so.
  EXPECT_GE(sent.by_file, WayChoice::kWarmUpBytes);
  EXPECT_TRUE(sent.right);
  EXPECT_EQ(statistics_.bytes_sent_by_sendfile, sent.by_file);
}

TEST_P(LongReadTest, IsSentByFileWhereCopyingIsSlower) {
  const Sent sent = Serve(Way::kCopy, [](const Sent& so_far) {
    return so_far.total() > 256 * kMiB;
  });
  // The look has been taken.
  EXPECT_GT(sent.by_copy, 0u);
  EXPECT_LT(sent.by_copy, sent.total() / 2);
  EXPECT_TRUE(sent.right);
}

TEST_P(LongReadTest, IsSentByFileAtFirst) {
  const Sent sent = Serve(Way::kSendFile, [](const Sent& so_far) {
    return so_far.total() + GetParam() > WayChoice::kWarmUpBytes;
  });
  EXPECT_EQ(sent.by_copy, 0u);
  EXPECT_TRUE(sent.right);
}

INSTANTIATE_TEST_SUITE_P(, LongReadTest, testing::Values(256 << 10, 512 << 10),
                         [](const auto& test) {
                           return std::to_string(test.param >> 10) + "KiB";
                         });

}  // namespace
}  // namespace nbdinetd
