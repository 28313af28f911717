// What is sent from the page cache without being copied must be what the file
// holds, and an error that is found when the reply's header is out must be
// told, never papered over.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>

#include "base/log.h"
#include "base/service_manager.h"
#include "base/timeouts.h"
#include "export/export.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/memory_stream.h"
#include "support/wire.h"
#include "transmission/transmission.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;
using nbdtest::Writer;

constexpr uint64_t kCookie = 0x0102030405060708;
constexpr size_t kSize = 1 << 20;
constexpr uint64_t kOffset = 8192;
constexpr uint32_t kLength = 512 << 10;

// Says where they differ, not what half a megabyte of them is.
testing::AssertionResult SameBytes(const Bytes& is, const Bytes& wanted) {
  if (is == wanted) return testing::AssertionSuccess();
  const auto differ =
      std::mismatch(is.begin(), is.end(), wanted.begin(), wanted.end());
  return testing::AssertionFailure()
         << is.size() << " bytes, not " << wanted.size()
         << ", and different from " << differ.first - is.begin() << " on";
}

class ZeroCopyTest : public testing::TestWithParam<ReplyStyle> {
 protected:
  ZeroCopyTest() {
    const Bytes pattern = Pattern(0, kSize);
    file_ = memfd_create("export", MFD_CLOEXEC);
    EXPECT_EQ(write(file_, pattern.data(), pattern.size()), ssize_t{kSize});
    Export::Facts facts;
    facts.size_bytes = kSize;
    target_ = std::make_unique<nbdtest::FakeExport>(UniqueFd(file_), facts);
  }

  // A request to read.
  static Bytes Read(uint64_t offset, uint32_t length, uint16_t flags = 0) {
    return Writer()
        .U32(nbdtest::kRequestMagic)
        .U16(flags)
        .U16(nbdtest::kCmdRead)
        .U64(kCookie)
        .U64(offset)
        .U32(length)
        .bytes();
  }

  // What the client gets for one read, and for those `before` it, up to the end
  // of the connection.
  Bytes Serve(uint16_t flags = 0, const Bytes& before = "") {
    Negotiated negotiated;
    negotiated.target = target_;
    negotiated.promises.size_bytes = kSize;
    negotiated.promises.transmission_flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_DF;
    negotiated.style = GetParam();
    peer_.Send(before + Read(kOffset, kLength, flags));
    peer_.Close();
    nbdtest::Event shutdown;
    Channel channel(std::make_unique<nbdtest::MemoryStream>(peer_),
                    shutdown.fd(), Timeouts().stall);
    ServiceManager manager;
    Progress progress(manager, statistics_, "");
    const Log log({LogDestination::kNull, false, false});
    ending_ = Transmission({.channel = channel,
                            .negotiated = negotiated,
                            .log = log,
                            .statistics = statistics_,
                            .progress = progress})
                  .Run();
    return peer_.Receive();
  }

  static bool structured() { return GetParam() == ReplyStyle::kStructured; }
  static Bytes Chunk(bool done, uint16_t type, const Bytes& payload) {
    return Writer()
        .U32(nbdtest::kStructuredReplyMagic)
        .U16(done ? nbdtest::kReplyFlagDone : 0)
        .U16(type)
        .U64(kCookie)
        .String32(payload)
        .bytes();
  }
  // The header and `data`, whatever comes behind.
  static Bytes Begin(const Bytes& data) {
    if (!structured()) {
      return Writer()
          .U32(nbdtest::kSimpleReplyMagic)
          .U32(0)
          .U64(kCookie)
          .Raw(data)
          .bytes();
    }
    return Chunk(false, nbdtest::kReplyOffsetData,
                 Writer().U64(kOffset).Raw(data).bytes());
  }
  static Bytes Whole(const Bytes& data) {
    return structured() ? Begin(data) + Chunk(true, nbdtest::kReplyNone, "")
                        : Begin(data);
  }

  nbdtest::MemoryPeer peer_;
  int file_;
  std::shared_ptr<Export> target_;
  Statistics statistics_;
  Ending ending_;
};

TEST_P(ZeroCopyTest, TheBytesAreTheFiles) {
  size_t calls = 0;
  peer_.AllowFiles([&](size_t) { return ssize_t(++calls > 0); });
  EXPECT_TRUE(SameBytes(Serve(), Whole(Pattern(kOffset, kLength))));
  EXPECT_EQ(calls, 1u);
  EXPECT_EQ(statistics_.bytes_read, kLength);
  EXPECT_EQ(statistics_.bytes_sent_by_sendfile, kLength);
  EXPECT_EQ(ending_.status, ExitStatus::kOk);
}

TEST_P(ZeroCopyTest, ShortSendsGoOnWhereTheyEnded) {
  peer_.AllowFiles();
  peer_.LimitWrites(10007);
  EXPECT_TRUE(SameBytes(Serve(), Whole(Pattern(kOffset, kLength))));
}

TEST_P(ZeroCopyTest, AFullSendBufferIsWaitedFor) {
  bool refused = false;
  peer_.AllowFiles([&](size_t sent) {
    if (sent == 0 || refused) return ssize_t{1};
    refused = true;
    return ssize_t{-EAGAIN};
  });
  peer_.LimitWrites(100000);
  EXPECT_TRUE(SameBytes(Serve(), Whole(Pattern(kOffset, kLength))));
  EXPECT_TRUE(refused);
}

// As when a file system can't do it.
TEST_P(ZeroCopyTest, WhatCannotBeSentSoIsCopied) {
  for (const size_t good : {size_t{0}, size_t{70000}}) {
    peer_.AllowFiles(
        [&](size_t sent) { return ssize_t{sent >= good ? -EINVAL : 1}; });
    peer_.LimitWrites(good == 0 ? SIZE_MAX : good);
    EXPECT_TRUE(SameBytes(Serve(), Whole(Pattern(kOffset, kLength)))) << good;
  }
}

// The page cache had all of it when the header went out.
TEST_P(ZeroCopyTest, ATruncationBehindTheHeaderIsTold) {
  constexpr size_t kGood = 100000;
  peer_.AllowFiles([&](size_t sent) {
    if (sent == kGood) {
      EXPECT_EQ(ftruncate(file_, kOffset + kGood), 0);
    }
    return ssize_t{1};
  });
  peer_.LimitWrites(kGood);
  const Bytes received = Serve();
  if (!structured()) {
    // All that can be done is to end the connection in the middle of the reply.
    EXPECT_TRUE(SameBytes(received, Begin(Pattern(kOffset, kGood))));
    EXPECT_EQ(ending_.status, ExitStatus::kSystem);
    return;
  }
  const Bytes padded =
      Begin(Pattern(kOffset, kGood) + Bytes(kLength - kGood, '\0'));
  ASSERT_GT(received.size(), padded.size());
  EXPECT_TRUE(SameBytes(received.substr(0, padded.size()), padded));
  const Bytes sentence =
      "read of 524288 bytes at offset 8192 failed: the file has been "
      "truncated, and ends before "
      "the export does";
  EXPECT_EQ(received.substr(padded.size()),
            Chunk(true, nbdtest::kReplyErrorOffset,
                  Writer()
                      .U32(nbdtest::kNbdEio)
                      .U16(static_cast<uint16_t>(sentence.size()))
                      .Raw(sentence)
                      .U64(kOffset + kGood)
                      .bytes()));
  EXPECT_EQ(statistics_.errors, 1u);
  EXPECT_EQ(ending_.status, ExitStatus::kOk);
}

// What stands for the bytes that couldn't be read is zeroes, and nothing that
// was sent before.
TEST_P(ZeroCopyTest, ThePaddingBehindATruncationIsZeroes) {
  if (!structured()) return;  // the connection ends there
  constexpr uint32_t kBefore = 100000;
  constexpr size_t kGood = 70000;
  peer_.AllowFiles([&](size_t sent) {
    if (sent == kGood) {
      EXPECT_EQ(ftruncate(file_, kOffset + kGood), 0);
    }
    return ssize_t{1};
  });
  peer_.LimitWrites(kGood);
  const Bytes received = Serve(/*flags=*/0, Read(0, kBefore));
  const Bytes wanted =
      Chunk(true, nbdtest::kReplyOffsetData,
            Writer().U64(0).Raw(Pattern(0, kBefore)).bytes()) +
      Begin(Pattern(kOffset, kGood) + Bytes(kLength - kGood, '\0'));
  EXPECT_TRUE(SameBytes(received.substr(0, wanted.size()), wanted));
  EXPECT_EQ(statistics_.errors, 1u);
}

TEST_P(ZeroCopyTest, APeerThatLeavesInTheMiddleEndsTheConnection) {
  peer_.AllowFiles([&](size_t sent) {
    if (sent > 0) peer_.BreakAfter(0, -EPIPE);
    return ssize_t{sent > 0 ? -EPIPE : 1};
  });
  peer_.LimitWrites(65536);
  EXPECT_TRUE(
      SameBytes(Serve(), Begin(Pattern(kOffset, kLength))
                             .substr(0, (structured() ? 28 : 16) + 65536)));
  EXPECT_EQ(ending_.status, ExitStatus::kProtocol);
}

TEST_P(ZeroCopyTest, AStreamThatCannotSendFilesGetsTheSameBytes) {
  const Bytes received = Serve(NBD_CMD_FLAG_DF);
  EXPECT_TRUE(SameBytes(received, Whole(Pattern(kOffset, kLength))));
}

INSTANTIATE_TEST_SUITE_P(, ZeroCopyTest,
                         testing::Values(ReplyStyle::kSimple,
                                         ReplyStyle::kStructured),
                         [](const auto& test) {
                           return test.param == ReplyStyle::kSimple
                                      ? "Simple"
                                      : "Structured";
                         });

}  // namespace
}  // namespace nbdinetd
