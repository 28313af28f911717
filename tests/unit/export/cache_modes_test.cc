// What each use of the page cache leaves there. That the bytes are right is in
// layers_test.cc.

#include "export/cache_modes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/limits.h"
#include "export/open.h"
#include "support/image.h"
#include "support/session.h"

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

  static void WriteAll(Export& target) {
    for (uint64_t offset = 0; offset < target.facts().size_bytes;
         offset += kPiece) {
      const Bytes bytes = Pattern(offset, kPiece, 2);
      ASSERT_EQ(target.Write(offset, absl::MakeConstSpan(bytes.data(), kPiece),
                             false),
                0);
    }
  }

  const TempImage image_ = TempImage::WithPattern(kSize);
};

TEST_F(CacheModesTest, ReadsLeaveNothing) {
  const auto target = Open(CacheMode::kDrop, image_);
  image_.DropCache();
  ReadAll(*target);
  EXPECT_EQ(target->Prefetch(0, kSize), 0);
  EXPECT_EQ(CachedPages(image_), 0u);
}

TEST_F(CacheModesTest, WhatSomebodyElseReadStays) {
  const auto target = Open(CacheMode::kDrop, image_);
  image_.Read(0, kSize);
  ReadAll(*target);
  EXPECT_EQ(CachedPages(image_), kSize / kPage);
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
  constexpr uint64_t kLarge = 3 * kMaxDirtyBytes;
  const TempImage image = TempImage::Sparse(kLarge);
  {
    const auto target = Open(CacheMode::kDrop, image);
    WriteAll(*target);
    EXPECT_LE(CachedPages(image) * kPage, kMaxDirtyBytes);
  }
  EXPECT_EQ(CachedPages(image), 0u);
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
