// Every stack of layers does what a model of its bytes says, and touches
// nothing but them.

#include "export/layers.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "export/block_map.h"
#include "export/copy_on_write.h"
#include "export/open.h"
#include "export/overlay.h"
#include "support/extent.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;
using nbdtest::TempImage;

// Some bytes more than a page.
constexpr uint64_t kFileBytes = (1 << 20) + 517;

constexpr uint64_t kPage = 4096;

enum class Copies { kNone, kBesideTheFile, kInMemory, kInLargeBlocks };

struct Stack {
  const char* name;
  ExportSettings settings;
  // What is served: [begin, begin + stored) of the file, and zeroes up to size.
  uint64_t begin;
  uint64_t stored;
  uint64_t size;
  // Where the private copy is.
  Copies copies = Copies::kNone;
  uint64_t copy_bytes = std::numeric_limits<uint64_t>::max();
};

// Room for all of a copy, so that it is counted and never refused.
constexpr uint64_t kEnough = 4 << 20;

constexpr BlockSizes kBlocks512 = {.minimum = 512};

const Stack kStacks[] = {
    {"File", {}, 0, kFileBytes, kFileBytes},
    {"Offset",
     {.part = Part{4608}},
     4608,
     kFileBytes - 4608,
     kFileBytes - 4608},
    {"Length", {.part = Part{0, 300001}}, 0, 300001, 300001},
    {"OffsetAndLength", {.part = Part{70000, 300001}}, 70000, 300001, 300001},
    {"Smaller", {.size = SizeChange{.bytes = 500000}}, 0, 500000, 500000},
    {"Larger", {.size = SizeChange{.bytes = 2 << 20}}, 0, kFileBytes, 2 << 20},
    {"Up",
     {.size = SizeChange{SizeChange::Kind::kUp, 4096}},
     0,
     kFileBytes,
     (1 << 20) + 4096},
    {"Down",
     {.size = SizeChange{SizeChange::Kind::kDown, 4096}},
     0,
     1 << 20,
     1 << 20},
    {"Blocks",
     {.block_sizes = kBlocks512},
     0,
     (1 << 20) + 512,
     (1 << 20) + 512},
    {"PartUpAndBlocks",
     {.part = Part{517, 300001},
      .size = SizeChange{SizeChange::Kind::kUp, 1000},
      .block_sizes = kBlocks512},
     517,
     300001,
     301000 / 512 * 512},
    {"Copy", {}, 0, kFileBytes, kFileBytes, Copies::kBesideTheFile},
    {"CopyWithLimit",
     {},
     0,
     kFileBytes,
     kFileBytes,
     Copies::kBesideTheFile,
     kEnough},
    {"CopyInMemory", {}, 0, kFileBytes, kFileBytes, Copies::kInMemory},
    {"CopyOfAPart",
     {.part = Part{70000, 300001}},
     70000,
     300001,
     300001,
     Copies::kBesideTheFile,
     kEnough},
    {"CopyOfALargerOne",
     {.size = SizeChange{.bytes = 2 << 20}},
     0,
     kFileBytes,
     2 << 20,
     Copies::kBesideTheFile},
    {"CopyInLargeBlocks",
     {},
     0,
     kFileBytes,
     kFileBytes,
     Copies::kInLargeBlocks},
    {"WriteThrough",
     {.cache = CacheMode::kWritethrough},
     0,
     kFileBytes,
     kFileBytes},
    {"DropBehind", {.cache = CacheMode::kDrop}, 0, kFileBytes, kFileBytes},
    {"CopyOfDropBehind",
     {.cache = CacheMode::kDrop},
     0,
     kFileBytes,
     kFileBytes,
     Copies::kInMemory},
    {"Direct", {.cache = CacheMode::kNone}, 0, kFileBytes, kFileBytes},
    {"DirectPart",
     {.cache = CacheMode::kNone,
      .part = Part{517, 300001},
      .size = SizeChange{SizeChange::Kind::kUp, 1000},
      .block_sizes = kBlocks512},
     517,
     300001,
     301000 / 512 * 512},
    {"DirectAndWriteThrough",
     {.cache = CacheMode::kDirectsync, .part = Part{4608}},
     4608,
     kFileBytes - 4608,
     kFileBytes - 4608},
    {"CopyOfDirect",
     {.cache = CacheMode::kNone},
     0,
     kFileBytes,
     kFileBytes,
     Copies::kBesideTheFile,
     kEnough},
    {"CopyInBlocks",
     {.block_sizes = kBlocks512},
     0,
     (1 << 20) + 512,
     (1 << 20) + 512,
     Copies::kInMemory,
     kEnough},
};

class LayersTest : public testing::TestWithParam<Stack> {
 protected:
  LayersTest() {
    const Stack& stack = GetParam();
    ExportSettings settings = stack.settings;
    settings.read_only = stack.copies != Copies::kNone;
    std::string reason;
    auto opened = OpenExport(image_.path(), settings, &reason);
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (opened.ok()) target_ = *std::move(opened);
    EXPECT_EQ(SizeWithLayers(settings, kFileBytes),
              target_->facts().size_bytes);
    if (stack.copies != Copies::kNone) MakeCopy(stack);
    model_ = Pattern(stack.begin, stack.stored);
    model_.resize(stack.size, '\0');
  }

  // As for an export that is too large for a map of pages.
  void MakeCopyInLargeBlocks() {
    constexpr uint64_t kBlock = 65536;
    Export::Facts facts = target_->facts();
    facts.read_only = false;
    std::string reason;
    auto copy = OpenExport(large_.path(), {}, &reason);
    ASSERT_TRUE(copy.ok()) << copy.status();
    target_ = std::make_shared<Overlay>(
        target_, facts,
        Overlay::Copy{*std::move(copy),
                      BlockMap::Create((kFileBytes + kBlock - 1) / kBlock),
                      kBlock});
  }

  void MakeCopy(const Stack& stack) {
    if (stack.copies == Copies::kInLargeBlocks) {
      MakeCopyInLargeBlocks();
      return;
    }
    auto copy = PrivateCopy::Create({true, stack.copies == Copies::kInMemory,
                                     image_.directory(), stack.copy_bytes});
    ASSERT_TRUE(copy.ok()) << copy.status();
    auto copied = std::move(*copy).Of(std::move(target_));
    ASSERT_TRUE(copied.ok()) << copied.status();
    target_ = *std::move(copied);
  }

  // A random range, often at the end of what the file has.
  std::pair<uint64_t, uint64_t> PickRange() {
    const uint64_t minimum = target_->facts().block_sizes.minimum;
    uint64_t offset = random_() % model_.size();
    if (random_() % 3 == 0) {
      offset = std::min<uint64_t>(GetParam().stored, model_.size()) -
               std::min<uint64_t>(random_() % 9000, GetParam().stored);
    }
    offset = std::min(offset, model_.size() - 1) / minimum * minimum;
    uint64_t length = 1 + random_() % 100000;
    length = std::min<uint64_t>(length, model_.size() - offset);
    length = std::max(length / minimum * minimum, minimum);
    return {offset, length};
  }

  // How much of a range can be written to.
  static uint64_t Stored(uint64_t offset, uint64_t length) {
    const uint64_t stored = GetParam().copies != Copies::kNone
                                ? GetParam().size
                                : GetParam().stored;
    return offset < stored ? std::min(length, stored - offset) : 0;
  }

  void ExpectRead(uint64_t offset, uint64_t length) {
    const Bytes wanted = model_.substr(offset, length);
    Bytes bytes(length, '?');
    size_t done = 0;
    EXPECT_EQ(
        target_->Read(offset, absl::MakeSpan(bytes.data(), length), &done),
        StorageError());
    EXPECT_EQ(done, length);
    EXPECT_TRUE(bytes == wanted) << offset << ", " << length;
    // What Read() has read may be dropped by somebody at any time.
    bytes.assign(length, '?');
    const size_t cached =
        target_->ReadCached(offset, absl::MakeSpan(bytes.data(), length));
    EXPECT_TRUE(bytes.compare(0, cached, wanted, 0, cached) == 0);
    ExpectLocated(offset, length, wanted);
    ExpectOrigin(offset, length, wanted);
  }

  // Each byte lies where Locate() says, or is a zero in no file, unless it
  // isn't to be sent from its file.
  void ExpectLocated(uint64_t offset, uint64_t length, const Bytes& wanted) {
    for (uint64_t at = 0; at < length;) {
      const auto place = target_->Locate(offset + at, length - at);
      if (!target_->caches_reads()) return;
      if (!place.has_value()) {
        const uint64_t zeroes =
            std::min(length - at, kPage - (offset + at) % kPage);
        EXPECT_TRUE(wanted.substr(at, zeroes) == Bytes(zeroes, '\0'));
        at += zeroes;
        continue;
      }
      ASSERT_GE(place->length, 1u);
      ASSERT_LE(place->length, length - at);
      Bytes bytes(place->length, '?');
      ASSERT_EQ(pread(place->fd, bytes.data(), bytes.size(),
                      static_cast<off_t>(place->offset)),
                static_cast<ssize_t>(bytes.size()));
      EXPECT_TRUE(bytes == wanted.substr(at, place->length));
      at += place->length;
    }
  }

  // Each byte that FindOrigin() finds is there, whatever the page cache keeps.
  void ExpectOrigin(uint64_t offset, uint64_t length, const Bytes& wanted) {
    for (uint64_t at = 0; at < length;) {
      const auto origin = target_->FindOrigin(offset + at, length - at);
      if (!origin.has_value()) {
        at += std::min(length - at, kPage - (offset + at) % kPage);
        continue;
      }
      ASSERT_GE(origin->length, 1u);
      ASSERT_LE(origin->length, length - at);
      Bytes bytes(origin->length, '?');
      ASSERT_EQ(pread(target_->lock_fd(), bytes.data(), bytes.size(),
                      static_cast<off_t>(origin->offset)),
                static_cast<ssize_t>(bytes.size()));
      EXPECT_TRUE(bytes == wanted.substr(at, origin->length));
      at += origin->length;
    }
  }

  void DoWrite(uint64_t offset, uint64_t length) {
    const Bytes bytes = Pattern(offset, length, random_());
    const bool durable = random_() % 4 == 0;
    const int error = target_->Write(
        offset, absl::MakeConstSpan(bytes.data(), length), durable);
    const uint64_t stored = Stored(offset, length);
    if (bytes.find_first_not_of('\0', stored) != Bytes::npos) {
      EXPECT_EQ(error, ENOSPC) << offset << ", " << length;
      return;
    }
    EXPECT_EQ(error, 0) << offset << ", " << length;
    model_.replace(offset, length, bytes);
  }

  void DoZero(uint64_t offset, uint64_t length) {
    const auto hole =
        random_() % 2 == 0 ? Export::Hole::kAllowed : Export::Hole::kForbidden;
    const int error =
        target_->Zero(offset, length, hole, Export::Speed::kAny, nullptr);
    if (Stored(offset, length) < length && hole == Export::Hole::kForbidden) {
      EXPECT_EQ(error, ENOSPC);
      return;
    }
    EXPECT_EQ(error, 0);
    model_.replace(offset, length, Bytes(length, '\0'));
  }

  // Of whole pages of the file; a trimmed page reads as zeroes or as before.
  void DoTrim(uint64_t offset, uint64_t length) {
    EXPECT_EQ(target_->Trim(offset, length), 0);
    Bytes bytes(length, '?');
    size_t done = 0;
    ASSERT_EQ(
        target_->Read(offset, absl::MakeSpan(bytes.data(), length), &done),
        StorageError());
    for (uint64_t i = 0; i < length; ++i) {
      ASSERT_TRUE(bytes[i] == model_[offset + i] || bytes[i] == '\0');
    }
    model_.replace(offset, length, bytes);
  }

  void ExpectExtents(uint64_t offset, uint64_t length) {
    const size_t limit = 1 + random_() % 5;
    Extents extents;
    ASSERT_EQ(target_->FindExtents(offset, length, limit, nullptr, &extents),
              0);
    ASSERT_GE(extents.size(), 1u);
    ASSERT_LE(extents.size(), limit);
    uint64_t at = offset;
    for (size_t i = 0; i < extents.size(); ++i) {
      const Extent& extent = extents[i];
      ASSERT_GE(extent.length_bytes, 1u);
      ASSERT_LT(at, offset + length) << "an extent behind the range";
      EXPECT_TRUE(i == 0 || extent.hole != extents[i - 1].hole);
      ASSERT_LE(at + extent.length_bytes, model_.size());
      EXPECT_EQ(extent.length_bytes % target_->facts().block_sizes.minimum, 0u);
      if (extent.hole) {
        EXPECT_TRUE(model_.substr(at, extent.length_bytes) ==
                    Bytes(extent.length_bytes, '\0'))
            << at << ", " << extent.length_bytes;
      }
      at += extent.length_bytes;
    }
  }

  const TempImage image_ = TempImage::WithPattern(kFileBytes);
  const TempImage large_ = TempImage::Sparse(kFileBytes);
  std::shared_ptr<Export> target_;
  Bytes model_;
  const unsigned seed_ = std::random_device()();
  std::mt19937_64 random_{seed_};
};

INSTANTIATE_TEST_SUITE_P(Of, LayersTest, testing::ValuesIn(kStacks),
                         [](const auto& stack) { return stack.param.name; });

TEST_P(LayersTest, DoWhatTheModelSays) {
  ASSERT_NE(target_, nullptr);
  EXPECT_EQ(target_->facts().size_bytes, GetParam().size);
  for (int i = 0; i < 600 && !HasFailure(); ++i) {
    const auto [offset, length] = PickRange();
    SCOPED_TRACE(testing::Message() << "seed " << seed_ << ", " << i << ": "
                                    << offset << ", " << length);
    switch (random_() % 8) {
      case 0:
      case 1:
        DoWrite(offset, length);
        break;
      case 2:
        DoZero(offset, length);
        break;
      case 3:
        DoTrim(offset, std::min<uint64_t>(length, 20000));
        break;
      case 4:
        ExpectExtents(offset, length);
        break;
      case 5:
        EXPECT_EQ(target_->Prefetch(offset, length), 0);
        target_->WriteWouldWait(offset, length);
        break;
      case 6:
        EXPECT_EQ(target_->Flush(), 0);
        break;
      default:
        ExpectRead(offset, length);
    }
  }
  ExpectRead(0, model_.size());
  ExpectExtents(0, model_.size());
  if (GetParam().copies != Copies::kNone) {
    EXPECT_TRUE(image_.Read(0, kFileBytes) == Pattern(0, kFileBytes));
  }
}

TEST_P(LayersTest, NothingOutsideIsTouched) {
  ASSERT_NE(target_, nullptr);
  const Stack& stack = GetParam();
  EXPECT_EQ(target_->Zero(0, model_.size(), Export::Hole::kAllowed,
                          Export::Speed::kAny, nullptr),
            0);
  const uint64_t served =
      stack.copies != Copies::kNone
          ? 0
          : std::min(stack.stored, target_->facts().size_bytes);
  EXPECT_EQ(image_.size(), kFileBytes);
  EXPECT_TRUE(image_.Read(0, stack.begin) == Pattern(0, stack.begin));
  EXPECT_TRUE(image_.Read(stack.begin, served) == Bytes(served, '\0'));
  const uint64_t end = stack.begin + served;
  EXPECT_TRUE(image_.Read(end, kFileBytes - end) ==
              Pattern(end, kFileBytes - end));
}

TEST_P(LayersTest, WhatIsCachedIsKnown) {
  ASSERT_NE(target_, nullptr);
  ExpectRead(0, model_.size());
  const std::optional<CacheMode> cache = GetParam().settings.cache;
  const bool passes_by =
      cache == CacheMode::kNone || cache == CacheMode::kDirectsync;
  EXPECT_EQ(target_->IsCached(0, model_.size()), !passes_by);
  EXPECT_TRUE(
      nbdtest::OnceDropped(image_, [&] { return !target_->IsCached(0, 512); }));
}

// -- Parts that aren't there

void ExpectNoPart(const ExportSettings& settings, const std::string& why) {
  const TempImage image = TempImage::WithPattern(1000);
  std::string reason;
  const auto opened = OpenExport(image.path(), settings, &reason);
  ASSERT_TRUE(absl::IsNotFound(opened.status())) << opened.status();
  EXPECT_NE(opened.status().message().find(why), std::string::npos)
      << opened.status();
}

TEST(LayerErrors, APartBehindTheEnd) {
  ExpectNoPart({.part = Part{1001}},
               "it has 1000 bytes, and --offset is 1001: choose one that is no "
               "larger");
}

TEST(LayerErrors, APartThatIsTooLong) {
  ExpectNoPart({.part = Part{1000, 1}},
               "it has 1000 bytes, 0 of them from --offset on, and --length is "
               "1: choose one that is no larger");
  ExpectNoPart({.part = Part{1, 1000}}, "999 of them");
}

}  // namespace
}  // namespace nbdinetd
