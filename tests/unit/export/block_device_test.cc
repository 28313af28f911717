// A block device as an export: a loop device over a file, which has all that a
// device needs (block sizes, discard, zeroing by command) and shows what became
// of it.

#include "export/block_device.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "export/open.h"
#include "support/image.h"
#include "support/loop_device.h"
#include "support/private_mount.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::LoopDevice;
using nbdtest::Pattern;
using nbdtest::TempImage;

constexpr uint64_t kSize = 4 << 20;
constexpr uint64_t kBlock = 64 << 10;

// For each size of a logical block.
class BlockDeviceTest : public testing::TestWithParam<uint32_t> {
 protected:
  void Attach(bool read_only = false) {
    NBDTEST_REQUIRE(geteuid() == 0, "loop devices need root");
    device_.emplace(image_.path(), GetParam(), read_only);
    NBDTEST_REQUIRE(device_->attached(), device_->problem());
    std::string reason;
    absl::StatusOr<std::unique_ptr<Export>> opened =
        OpenExport(device_->path(), {}, &reason);
    ASSERT_TRUE(opened.ok()) << opened.status();
    target_ = *std::move(opened);
    read_only_reason_ = reason;
  }
  // Gives every test the same content, through the device.
  void Fill() {
    const Bytes bytes = Pattern(0, kSize);
    ASSERT_EQ(Write(0, bytes), 0);
  }
  int Write(uint64_t offset, const Bytes& bytes, bool durable = false) {
    return target_->Write(offset, {bytes.data(), bytes.size()}, durable);
  }
  Bytes Read(uint64_t offset, size_t size) {
    Bytes bytes(size, '#');
    size_t done = 0;
    EXPECT_EQ(target_->Read(offset, absl::MakeSpan(bytes.data(), size), &done),
              0);
    return bytes;
  }
  Export& target() { return *target_; }
  TempImage& image() { return image_; }
  LoopDevice& device() { return *device_; }
  const std::string& read_only_reason() const { return read_only_reason_; }

 private:
  TempImage image_ = TempImage::WithPattern(kSize);
  std::optional<LoopDevice> device_;
  std::unique_ptr<Export> target_;
  std::string read_only_reason_;
};

INSTANTIATE_TEST_SUITE_P(BlockBytes, BlockDeviceTest,
                         testing::Values(512, 4096),
                         testing::PrintToStringParamName());

#define ATTACH(...)    \
  Attach(__VA_ARGS__); \
  if (IsSkipped() || HasFatalFailure()) return

// Ranges that begin and end on blocks or not; within a page, within a block,
// and empty ones.
constexpr std::pair<uint64_t, uint64_t> kRanges[] = {
    {0, kSize},
    {kBlock, 2 * kBlock},
    {kBlock + 1, 2 * kBlock},
    {kBlock - 517, kBlock},
    {100, 200},
    {4095, 2},
    {kSize - 1, 1},
    {512, 512},
    {512, 4096},
    {4096 - 512, 8192},
    {0, 1},
    {kSize - 5000, 5000},
    {2 * kBlock, 0},
    {517, 0},
    {kSize, 0},
};

TEST_P(BlockDeviceTest, TellsSizeAndBlockSize) {
  ATTACH();
  EXPECT_EQ(target().facts().size_bytes, kSize);
  EXPECT_FALSE(target().facts().read_only);
  EXPECT_EQ(read_only_reason(), "");
  const uint32_t block = target().facts().block_sizes.preferred;
  EXPECT_GE(block, 4096u);
  EXPECT_EQ(block & (block - 1), 0u);
  EXPECT_EQ(target().path(), device().path());
}

TEST_P(BlockDeviceTest, AReadOnlyDeviceIsAReadOnlyExportAndSaysWhy) {
  ATTACH(/*read_only=*/true);
  EXPECT_TRUE(target().facts().read_only);
  EXPECT_NE(read_only_reason(), "");
  EXPECT_TRUE(Read(0, kBlock) == Pattern(0, kBlock));
  EXPECT_NE(Write(0, "x"), 0);
}

TEST_P(BlockDeviceTest, ReadsAndWritesAnyRange) {
  ATTACH();
  for (const bool durable : {false, true}) {
    Fill();
    Bytes wanted = Pattern(0, kSize);
    for (const auto& [offset, size] : {std::pair<uint64_t, size_t>{0, 1},
                                       {4095, 2},
                                       {kBlock - 100, 10000},
                                       {512, 512},
                                       {kSize - 517, 517}}) {
      const Bytes bytes = Pattern(offset, size, /*seed=*/7);
      EXPECT_EQ(Write(offset, bytes, durable), 0);
      wanted.replace(offset, size, bytes);
      EXPECT_TRUE(Read(offset, size) == bytes);
    }
    EXPECT_EQ(target().Flush(), 0);
    EXPECT_TRUE(Read(0, kSize) == wanted);
    EXPECT_TRUE(image().Read(0, kSize) == wanted);
  }
}

TEST_P(BlockDeviceTest, IsOneExtentOfDataWithoutHoles) {
  ATTACH();
  Extents extents;
  ASSERT_EQ(target().FindExtents(kBlock, 512, 100, nullptr, &extents), 0);
  ASSERT_EQ(extents.size(), 1u);
  EXPECT_EQ(extents[0].length_bytes, kSize - kBlock);
  EXPECT_FALSE(extents[0].hole);
}

TEST_P(BlockDeviceTest, ATrimTouchesNothingOutsideItsRange) {
  ATTACH();
  for (const auto& [offset, length] : kRanges) {
    Fill();
    EXPECT_EQ(target().Trim(offset, length), 0) << offset << ", " << length;
    Bytes wanted = Pattern(0, kSize);
    Bytes got = Read(0, kSize);
    got.replace(offset, length, length, '#');
    wanted.replace(offset, length, length, '#');
    EXPECT_TRUE(got == wanted) << offset << ", " << length;
  }
}

TEST_P(BlockDeviceTest, ATrimGivesTheStorageBack) {
  if (!image().CanPunchHoles())
    GTEST_SKIP() << "no holes on the file system of the tests";
  ATTACH();
  Fill();
  EXPECT_EQ(target().Flush(), 0);
  const uint64_t before = image().AllocatedBytes();
  EXPECT_EQ(target().Trim(0, kSize / 2), 0);
  EXPECT_LE(image().AllocatedBytes() + kSize / 4, before);
}

TEST_P(BlockDeviceTest, ZeroingMakesTheRangeZeroesAndTouchesNothingElse) {
  ATTACH();
  for (const Export::Hole hole :
       {Export::Hole::kAllowed, Export::Hole::kForbidden}) {
    for (const auto& [offset, length] : kRanges) {
      Fill();
      EXPECT_EQ(
          target().Zero(offset, length, hole, Export::Speed::kAny, nullptr), 0);
      Bytes wanted = Pattern(0, kSize);
      wanted.replace(offset, length, length, '\0');
      EXPECT_TRUE(Read(0, kSize) == wanted) << offset << ", " << length;
      EXPECT_EQ(target().Flush(), 0);
      EXPECT_TRUE(image().Read(0, kSize) == wanted) << offset << ", " << length;
    }
  }
}

// It succeeds and has zeroed, or is refused and has changed nothing.
TEST_P(BlockDeviceTest, AFastZeroDoesAllOrNothing) {
  ATTACH();
  for (const Export::Hole hole :
       {Export::Hole::kAllowed, Export::Hole::kForbidden}) {
    for (const auto& [offset, length] : kRanges) {
      Fill();
      const int error = target().Zero(offset, length, hole,
                                      Export::Speed::kFastOnly, nullptr);
      EXPECT_TRUE(error == 0 || (error == EOPNOTSUPP && length != 0))
          << offset << ", " << length << ": " << error;
      Bytes wanted = Pattern(0, kSize);
      if (error == 0) wanted.replace(offset, length, length, '\0');
      EXPECT_TRUE(Read(0, kSize) == wanted)
          << offset << ", " << length << ": " << error;
      EXPECT_EQ(target().Flush(), 0);
      EXPECT_TRUE(image().Read(0, kSize) == wanted)
          << offset << ", " << length << ": " << error;
    }
  }
}

TEST_P(BlockDeviceTest, AFastZeroOfWholeBlocksSucceedsWhereTheDeviceUnmaps) {
  if (!image().CanPunchHoles())
    GTEST_SKIP() << "no holes on the file system of the tests";
  ATTACH();
  Fill();
  EXPECT_EQ(target().Zero(kBlock, kBlock, Export::Hole::kAllowed,
                          Export::Speed::kFastOnly, nullptr),
            0);
}

TEST_P(BlockDeviceTest, ZeroingWithoutHolesKeepsTheStorage) {
  if (!image().CanZeroRanges())
    GTEST_SKIP() << "no zeroing on the file system of the tests";
  ATTACH();
  Fill();
  EXPECT_EQ(target().Flush(), 0);
  const uint64_t before = image().AllocatedBytes();
  EXPECT_EQ(target().Zero(0, kSize, Export::Hole::kForbidden,
                          Export::Speed::kAny, nullptr),
            0);
  EXPECT_EQ(target().Flush(), 0);
  EXPECT_GE(image().AllocatedBytes(), before);
}

}  // namespace
}  // namespace nbdinetd
