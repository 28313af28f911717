// What each use of the page cache leaves there. That the bytes are right is in
// layers_test.cc.

#include "export/cache_modes.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/limits.h"
#include "export/open.h"
#include "support/image.h"
#include "support/session.h"
#include "support/without_calls.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;
using nbdtest::TempImage;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSize = 4 << 20;
constexpr size_t kPiece = 256 << 10;

class CacheModesTest : public testing::Test {
 protected:
  std::unique_ptr<Export> Open(CacheMode mode, const TempImage& image) {
    ExportSettings settings;
    settings.cache = mode;
    std::string reason;
    auto opened = OpenExport(image.path(), settings, &reason);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }

  // Pages of the image that are in the page cache.
  uint64_t CachedPages(const TempImage& image) {
    const auto plain = Open(CacheMode::kWriteback, image);
    uint64_t pages = 0;
    for (uint64_t offset = 0; offset < image.size(); offset += kPage) {
      if (plain->IsCached(offset, 1)) ++pages;
    }
    return pages;
  }

  static void ReadAll(Export& target) {
    Bytes bytes(kPiece, '?');
    for (uint64_t offset = 0; offset < target.facts().size_bytes;
         offset += kPiece) {
      size_t done = 0;
      ASSERT_EQ(
          target.Read(offset, absl::MakeSpan(bytes.data(), kPiece), &done),
          StorageError());
      ASSERT_TRUE(bytes == Pattern(offset, kPiece));
    }
  }

  // Writes every `step`th piece, then those after them, and so on.
  static void WriteAll(Export& target, uint64_t step = 1) {
    const uint64_t pieces = target.facts().size_bytes / kPiece;
    for (uint64_t i = 0; i < pieces; ++i) {
      const uint64_t in_a_pass = pieces / step;
      const uint64_t offset = (i % in_a_pass * step + i / in_a_pass) * kPiece;
      const Bytes bytes = Pattern(offset, kPiece, 2);
      ASSERT_EQ(target.Write(offset, absl::MakeConstSpan(bytes.data(), kPiece),
                             false),
                0);
    }
  }

  const TempImage image_ = TempImage::WithPattern(kSize);
};

// In two ways: the kernel drops the pages (RWF_DONTCACHE), or where preadv2(2)
// can't tell it to, the layer does.
class DropBehindTest : public CacheModesTest,
                       public testing::WithParamInterface<const char*> {
 protected:
  template <typename Function>
  static void InThisWay(Function function) {
    if (GetParam() == std::string("Kernel")) {
      function();
    } else {
      nbdtest::WithoutCalls({SYS_preadv2}, function, EOPNOTSUPP);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(By, DropBehindTest, testing::Values("Kernel", "Layer"),
                         [](const auto& by) { return std::string(by.param); });

TEST_P(DropBehindTest, ReadsLeaveNothing) {
  InThisWay([this] {
    const auto target = Open(CacheMode::kDrop, image_);
    image_.DropCache();
    ReadAll(*target);
    EXPECT_EQ(target->Prefetch(0, kSize), 0);
    EXPECT_EQ(CachedPages(image_), 0u);
  });
}

TEST_P(DropBehindTest, ReadsOfPartsOfPagesLeaveNothing) {
  InThisWay([this] {
    const auto target = Open(CacheMode::kDrop, image_);
    image_.DropCache();
    Bytes bytes(2, '?');
    for (uint64_t at = kPage - 1; at + 1 < kSize; at += 3 * kPage) {
      size_t done = 0;
      ASSERT_EQ(target->Read(at, absl::MakeSpan(bytes.data(), 2), &done),
                StorageError());
      ASSERT_TRUE(bytes == Pattern(at, 2)) << at;
    }
    EXPECT_EQ(CachedPages(image_), 0u);
  });
}

TEST_P(DropBehindTest, WhatSomebodyElseReadStays) {
  InThisWay([this] {
    const auto target = Open(CacheMode::kDrop, image_);
    image_.Read(0, kSize);
    ReadAll(*target);
    Bytes bytes(kPiece, '?');
    const size_t cached =
        target->ReadCached(0, absl::MakeSpan(bytes.data(), kPiece));
    // Without preadv2(2), nothing is read so.
    EXPECT_EQ(cached, GetParam() == std::string("Kernel") ? kPiece : 0);
    EXPECT_EQ(CachedPages(image_), kSize / kPage);
  });
}

// A read that has to wait is followed by Read(), which leaves nothing of it.
TEST_P(DropBehindTest, WhatReadCachedStartsIsDroppedByRead) {
  InThisWay([this] {
    const auto target = Open(CacheMode::kDrop, image_);
    image_.DropCache();
    for (uint64_t offset = 0; offset < kSize; offset += kPiece) {
      Bytes bytes(kPiece, '?');
      const absl::Span<char> out = absl::MakeSpan(bytes.data(), kPiece);
      if (target->ReadCached(offset, out) == kPiece) continue;
      size_t done = 0;
      ASSERT_EQ(target->Read(offset, out, &done), StorageError());
      ASSERT_TRUE(bytes == Pattern(offset, kPiece));
    }
    EXPECT_EQ(CachedPages(image_), 0u);
  });
}

TEST_F(CacheModesTest, ReadsBeginOnlyWhereTheKernelDropsThem) {
  for (const CacheMode mode :
       {CacheMode::kWriteback, CacheMode::kWritethrough, CacheMode::kNone}) {
    EXPECT_FALSE(Open(mode, image_)->begins_reads());
  }
  nbdtest::WithoutCalls(
      {SYS_preadv2},
      [this] {
        const auto target = Open(CacheMode::kDrop, image_);
        char byte;
        image_.Read(0, 1);
        target->ReadCached(0, {&byte, 1});
        EXPECT_FALSE(target->begins_reads());
      },
      EOPNOTSUPP);
}

// Some pages of a range are somebody else's: only where the kernel drops the
// others. The layer knows only whether all of them were there.
TEST_F(CacheModesTest, WhatSomebodyElseReadInTheMiddleStays) {
  const auto target = Open(CacheMode::kDrop, image_);
  image_.DropCache();
  image_.Read(5 * kPage, kPage);
  const uint64_t before = CachedPages(image_);
  ReadAll(*target);
  if (!target->begins_reads()) {
    GTEST_SKIP() << "the kernel, or the file system, has no RWF_DONTCACHE";
  }
  EXPECT_EQ(CachedPages(image_), before);
}

TEST_F(CacheModesTest, WritesLeaveNothingAfterAFlush) {
  const TempImage image = TempImage::Sparse(kSize);
  const auto target = Open(CacheMode::kDrop, image);
  WriteAll(*target);
  EXPECT_EQ(target->Flush(), 0);
  EXPECT_EQ(CachedPages(image), 0u);
  EXPECT_TRUE(image.Read(0, kSize) == Pattern(0, kSize, 2));
}

TEST_F(CacheModesTest, WritesLeaveLittleBeforeAFlush) {
  constexpr uint64_t kLarge = 10 * kWriteBackBytes;
  const TempImage image = TempImage::Sparse(kLarge);
  {
    const auto target = Open(CacheMode::kDrop, image);
    WriteAll(*target);
    EXPECT_LE(CachedPages(image) * kPage, 3 * kWriteBackBytes);
  }
  EXPECT_EQ(CachedPages(image), 0u);
}

TEST_F(CacheModesTest, ScatteredWritesLeaveLittleBeforeAFlush) {
  constexpr uint64_t kLarge = 10 * kScatteredWriteBackBytes;
  const TempImage image = TempImage::Sparse(kLarge);
  {
    const auto target = Open(CacheMode::kDrop, image);
    WriteAll(*target, 10);
    EXPECT_LE(CachedPages(image) * kPage, 3 * kScatteredWriteBackBytes);
  }
  EXPECT_EQ(CachedPages(image), 0u);
  EXPECT_TRUE(image.Read(kLarge - kPiece, kPiece) ==
              Pattern(kLarge - kPiece, kPiece, 2));
}

TEST_F(CacheModesTest, WriteThroughLeavesNothingToBeWritten) {
  const auto target = Open(CacheMode::kWritethrough, image_);
  WriteAll(*target);
  EXPECT_EQ(target->Zero(kPage, 3 * kPage + 1, Export::Hole::kAllowed,
                         Export::Speed::kAny, nullptr),
            0);
  const auto unwritten = image_.UnwrittenPages(0, kSize);
  NEED_OR_SKIP(unwritten.has_value(), "the kernel doesn't tell what is dirty");
  EXPECT_EQ(*unwritten, 0u);
}

}  // namespace
}  // namespace nbdinetd
