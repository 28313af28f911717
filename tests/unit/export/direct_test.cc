// What goes past the page cache: where blocks are shared by several servers of
// one file, at the end of a file, and in memory of every alignment. That a
// single server does what is asked is in layers_test.cc, too.

#include "export/direct.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "export/direct_alignment.h"
#include "export/open.h"
#include "export/range_locks.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/loop_device.h"
#include "support/session.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::LoopDevice;
using nbdtest::Pattern;
using nbdtest::TempImage;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSize = 1 << 20;

std::unique_ptr<Export> Open(const std::string& path, CacheMode mode) {
  ExportSettings settings;
  settings.cache = mode;
  std::string reason;
  auto opened = OpenExport(path, settings, &reason);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

// A file, and block devices with sectors of these sizes.
class DirectTest : public testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    if (GetParam() == 0) return;
    NEED_OR_SKIP(geteuid() == 0, "loop devices need root");
    device_.emplace(image_.path(), GetParam(), /*read_only=*/false);
    NEED_OR_SKIP(device_->attached(), device_->problem());
  }

  const std::string& path() const {
    return device_.has_value() ? device_->path() : image_.path();
  }
  // Each has descriptors of its own, as in a process of its own.
  std::unique_ptr<Export> Open(CacheMode mode = CacheMode::kNone) {
    return nbdinetd::Open(path(), mode);
  }

  uint64_t CachedPages() {
    const auto plain = Open(CacheMode::kWriteback);
    uint64_t pages = 0;
    for (uint64_t offset = 0; offset < plain->facts().size_bytes;
         offset += kPage) {
      if (plain->IsCached(offset, 1)) ++pages;
    }
    return pages;
  }

  static Bytes Read(Export& target, uint64_t offset, size_t size) {
    Bytes bytes(size, '#');
    size_t done = 0;
    EXPECT_EQ(target.Read(offset, absl::MakeSpan(bytes.data(), size), &done),
              StorageError());
    EXPECT_EQ(done, size);
    return bytes;
  }
  static void Write(Export& target, uint64_t offset, const Bytes& bytes) {
    EXPECT_EQ(target.Write(offset, absl::MakeConstSpan(bytes), false), 0);
  }

  const TempImage image_ = TempImage::WithPattern(kSize);
  std::optional<LoopDevice> device_;
};

INSTANTIATE_TEST_SUITE_P(On, DirectTest, testing::Values(0, 512, 4096),
                         [](const auto& sector) {
                           return sector.param == 0
                                      ? std::string("File")
                                      : "DeviceOf" +
                                            std::to_string(sector.param);
                         });

// Four servers of one file, whose parts share blocks, as of clients with
// several connections. A server that reads a block and writes all of it, with a
// lock of its own only, brings back old bytes of the others.
TEST_P(DirectTest, ServersOfOneFileKeepEachOthersPartsOfABlock) {
  constexpr size_t kServers = 4;
  constexpr uint64_t kPart = 300;
  constexpr int kTurns = 400;
  std::atomic<int> old = 0;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kServers; ++i) {
    threads.emplace_back([&, i] {
      const auto target = Open();
      ASSERT_NE(target, nullptr);
      const uint64_t offset = 3 * kPage + i * kPart;
      for (int turn = 0; turn < kTurns; ++turn) {
        const Bytes bytes = Pattern(offset, kPart, static_cast<size_t>(turn));
        Write(*target, offset, bytes);
        if (Read(*target, offset, kPart) != bytes) ++old;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(old, 0);
}

// One server changes a few bytes of a block again and again, another one writes
// and zeroes whole blocks around them: bytes that only the second one changes
// are its own.
TEST_P(DirectTest, APartThatIsWrittenMeanwhileLosesNoWholeBlock) {
  constexpr int kTurns = 300;
  std::atomic<bool> stop = false;
  std::thread parts([&] {
    const auto target = Open();
    ASSERT_NE(target, nullptr);
    const Bytes bytes(100, 'p');
    while (!stop) Write(*target, 3 * kPage + 10, bytes);
  });
  const auto target = Open();
  for (int turn = 0; turn < kTurns && target != nullptr; ++turn) {
    Bytes wanted = Pattern(2 * kPage, 3 * kPage, static_cast<size_t>(turn));
    if (turn % 3 == 2) {
      wanted.assign(3 * kPage, '\0');
      EXPECT_EQ(target->Zero(2 * kPage, 3 * kPage, Export::Hole::kAllowed,
                             Export::Speed::kAny, nullptr),
                0);
    } else {
      Write(*target, 2 * kPage, wanted);
    }
    Bytes read = Read(*target, 2 * kPage, 3 * kPage);
    // What both change is either's.
    read.replace(kPage + 10, 100, wanted, kPage + 10, 100);
    EXPECT_TRUE(read == wanted) << turn;
  }
  stop = true;
  parts.join();
}

TEST_P(DirectTest, NothingStaysInThePageCache) {
  const auto target = Open();
  ASSERT_NE(target, nullptr);
  image_.DropCache();
  for (const auto& [offset, length] : {std::pair<uint64_t, size_t>{0, kSize},
                                       {1, 1},
                                       {kPage - 1, 2},
                                       {5000, 300000},
                                       {kSize - 1, 1},
                                       {512, 512}}) {
    Bytes bytes = Read(*target, offset, length);
    std::reverse(bytes.begin(), bytes.end());
    Write(*target, offset, bytes);
    EXPECT_TRUE(Read(*target, offset, length) == bytes) << offset;
    EXPECT_EQ(target->Zero(offset, length, Export::Hole::kForbidden,
                           Export::Speed::kAny, nullptr),
              0);
    EXPECT_TRUE(Read(*target, offset, length) == Bytes(length, '\0')) << offset;
    EXPECT_EQ(target->Prefetch(offset, length), 0);
    EXPECT_FALSE(target->IsCached(offset, length));
    char byte;
    EXPECT_EQ(target->ReadCached(offset, {&byte, 1}), 0u);
    EXPECT_FALSE(target->Locate(offset, length).has_value());
  }
  EXPECT_EQ(CachedPages(), 0u);
}

// Others write through the page cache, and read there.
TEST_P(DirectTest, SeesWhatAnotherServerHasInThePageCacheAndIsSeenThere) {
  const auto target = Open();
  const auto cached = Open(CacheMode::kWriteback);
  ASSERT_NE(target, nullptr);
  for (uint64_t offset = 0; offset < 4 * kPage; offset += 700) {
    const Bytes one = Pattern(offset, 900, 2), two = Pattern(offset, 900, 3);
    Write(*cached, offset, one);
    EXPECT_TRUE(Read(*target, offset, 900) == one) << offset;
    Write(*target, offset, two);
    EXPECT_TRUE(Read(*cached, offset, 900) == two) << offset;
    Write(*cached, offset, one);
    EXPECT_EQ(target->Zero(offset, 900, Export::Hole::kAllowed,
                           Export::Speed::kAny, nullptr),
              0);
    EXPECT_TRUE(Read(*cached, offset, 900) == Bytes(900, '\0')) << offset;
  }
}

TEST_P(DirectTest, MemoryNeedsNoAlignment) {
  const auto target = Open();
  ASSERT_NE(target, nullptr);
  std::vector<char> memory(8 * kPage);
  for (const size_t shift : {0, 1, 8, 511, 512, 4095}) {
    for (const size_t length :
         {size_t{1}, size_t{512}, size_t{4096}, size_t{4097}, size_t{20000}}) {
      for (const uint64_t offset : {uint64_t{0}, uint64_t{512}, uint64_t{77}}) {
        const Bytes bytes = Pattern(offset, length, shift + length);
        char* const at = memory.data() + shift;
        std::memcpy(at, bytes.data(), length);
        EXPECT_EQ(target->Write(offset, {at, length}, shift % 2 == 0), 0);
        std::memset(at, '#', length);
        size_t done = 0;
        EXPECT_EQ(target->Read(offset, {at, length}, &done), StorageError());
        EXPECT_TRUE(Bytes(at, length) == bytes)
            << shift << ", " << length << ", " << offset;
      }
    }
  }
}

TEST_P(DirectTest, EveryRequestWaits) {
  const auto target = Open();
  ASSERT_NE(target, nullptr);
  EXPECT_TRUE(target->WriteWouldWait(0, kPage));
  EXPECT_TRUE(target->writes_busy());
  EXPECT_FALSE(target->caches_reads());
}

// With each end of a file: on no block, and a few sectors before or behind.
TEST(DirectFileTest, ServesTheEndOfAFileOfAnySize) {
  for (const uint64_t size :
       {uint64_t{1}, uint64_t{511}, uint64_t{512}, uint64_t{513}, kPage - 1,
        kPage + 512, 3 * kPage + 101}) {
    const TempImage image = TempImage::WithPattern(size);
    const auto target = Open(image.path(), CacheMode::kNone);
    ASSERT_NE(target, nullptr);
    Bytes model = Pattern(0, size);
    for (uint64_t seed = 2; seed < 40; ++seed) {
      const uint64_t offset = seed * 797 % size;
      const size_t length = 1 + seed * 389 % (size - offset);
      const Bytes bytes = Pattern(offset, length, seed);
      EXPECT_EQ(
          target->Write(offset, absl::MakeConstSpan(bytes), seed % 5 == 0), 0);
      model.replace(offset, length, bytes);
      Bytes read(size, '#');
      size_t done = 0;
      EXPECT_EQ(target->Read(0, absl::MakeSpan(read.data(), size), &done),
                StorageError());
      ASSERT_TRUE(read == model) << size << ", " << offset << ", " << length;
    }
    EXPECT_EQ(image.size(), size);
    EXPECT_TRUE(image.Read(0, size) == model);
  }
}

TEST(DirectFileTest, ATruncatedFileIsToldAndAWriteExtendsIt) {
  const TempImage image = TempImage::WithPattern(8 * kPage);
  const auto target = Open(image.path(), CacheMode::kNone);
  ASSERT_NE(target, nullptr);
  for (const uint64_t end : {3 * kPage + 700, 3 * kPage, uint64_t{0}}) {
    image.Truncate(end);
    Bytes bytes(8 * kPage, '#');
    size_t done = 0;
    EXPECT_EQ(
        target->Read(0, absl::MakeSpan(bytes.data(), bytes.size()), &done),
        StorageError::Truncated());
    EXPECT_EQ(done, end);
    EXPECT_TRUE(bytes.substr(0, end) == Pattern(0, end));
    EXPECT_EQ(
        target->Read(7 * kPage + 5, absl::MakeSpan(bytes.data(), 1), &done),
        StorageError::Truncated());
    EXPECT_EQ(done, 0u);
  }
  const Bytes bytes = Pattern(6 * kPage + 5, kPage, 2);
  EXPECT_EQ(target->Write(6 * kPage + 5, absl::MakeConstSpan(bytes), true), 0);
  EXPECT_EQ(image.size(), 7 * kPage + 5);
  EXPECT_TRUE(image.Read(0, 6 * kPage + 5) == Bytes(6 * kPage + 5, '\0'));
  EXPECT_TRUE(image.Read(6 * kPage + 5, kPage) == bytes);
}

TEST(DirectFileTest, DirectsyncLeavesNothingToBeWritten) {
  const TempImage image = TempImage::WithPattern(kSize);
  const auto target = Open(image.path(), CacheMode::kDirectsync);
  ASSERT_NE(target, nullptr);
  const Bytes bytes = Pattern(77, 3 * kPage, 2);
  EXPECT_EQ(target->Write(77, absl::MakeConstSpan(bytes), false), 0);
  EXPECT_EQ(target->Zero(5 * kPage + 3, 3 * kPage, Export::Hole::kAllowed,
                         Export::Speed::kAny, nullptr),
            0);
  const auto unwritten = image.UnwrittenPages(0, kSize);
  NEED_OR_SKIP(unwritten.has_value(), "the kernel doesn't tell what is dirty");
  EXPECT_EQ(*unwritten, 0u);
}

TEST(DirectFileTest, AnotherFileOfTheSameNameIsNotServed) {
  const TempImage image = TempImage::WithPattern(kSize);
  std::string reason;
  bool is_first = true;
  const auto opened = OpenExportWith(
      [&](int flags) {
        if (!is_first) {
          EXPECT_EQ(unlink(image.path().c_str()), 0);
          return open(image.path().c_str(), flags | O_CREAT, 0600);
        }
        is_first = false;
        return open(image.path().c_str(), flags);
      },
      image.path(), {.cache = CacheMode::kNone}, &reason);
  EXPECT_TRUE(absl::IsUnavailable(opened.status())) << opened.status();
}

TEST(RangeLocksTest, OtherDescriptionsWaitAndAdjacentRangesDont) {
  const TempImage image = TempImage::WithPattern(kSize);
  const UniqueFd one(open(image.path().c_str(), O_RDWR | O_CLOEXEC));
  const UniqueFd other(open(image.path().c_str(), O_RDWR | O_CLOEXEC));
  RangeLocks mine(one.get()), theirs(other.get());
  std::atomic<int> steps = 0;
  std::thread thread;
  {
    const RangeLocks::Lock first(mine, {0, 512}, RangeLocks::Kind::kShared);
    // One that ends before leaves the lock beside it.
    {
      const RangeLocks::Lock beside(mine, {512, 512},
                                    RangeLocks::Kind::kShared);
      EXPECT_EQ(beside.error(), 0);
    }
    thread = std::thread([&] {
      const RangeLocks::Lock shared(theirs, {0, 512},
                                    RangeLocks::Kind::kShared);
      EXPECT_EQ(shared.error(), 0);
    });
    thread.join();
    thread = std::thread([&] {
      {
        const RangeLocks::Lock free(theirs, {512, 512},
                                    RangeLocks::Kind::kExclusive);
        EXPECT_EQ(free.error(), 0);
      }
      ++steps;
      const RangeLocks::Lock exclusive(theirs, {0, 1024},
                                       RangeLocks::Kind::kExclusive);
      EXPECT_EQ(exclusive.error(), 0);
      EXPECT_EQ(steps, 2);
    });
    while (steps == 0) sched_yield();
    ++steps;
  }
  thread.join();
}

TEST(DirectAlignmentTest, IsAPowerOfTwo) {
  const TempImage image = TempImage::WithPattern(kSize);
  const UniqueFd fd(open(image.path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  const auto alignment = FindDirectAlignment(fd.get());
  ASSERT_TRUE(alignment.has_value());
  EXPECT_GE(alignment->block, 512u);
  for (const uint64_t bytes : {alignment->block, alignment->memory}) {
    EXPECT_TRUE(std::has_single_bit(bytes)) << bytes;
    EXPECT_LE(bytes, kMaxDirectAlignment);
  }
}

TEST(DirectAlignmentTest, BlocksAndMemoryAreTriedApart) {
  for (const DirectAlignment wanted :
       {DirectAlignment{512, 512}, DirectAlignment{512, 4096},
        DirectAlignment{4096, 512}, DirectAlignment{kMaxDirectAlignment, 512},
        DirectAlignment{512, kMaxDirectAlignment}}) {
    const auto tried =
        TryDirectAlignments([&](const char* address, uint64_t length) {
          return wanted.Fits(length, address);
        });
    ASSERT_TRUE(tried.has_value());
    EXPECT_EQ(tried->block, wanted.block);
    EXPECT_EQ(tried->memory, wanted.memory);
  }
  EXPECT_FALSE(TryDirectAlignments([](const char*, uint64_t) {
                 return false;
               }).has_value());
}

// Its memory is to be aligned to more than its blocks, and its last block ends
// at no multiple of that.
TEST(DirectDeviceTest, TheLastBlockIsWrittenWhateverMemoryItNeeds) {
  NEED_OR_SKIP(geteuid() == 0, "loop devices need root");
  constexpr uint64_t kDeviceBytes = 4 * kPage + 3 * 512;
  const TempImage image = TempImage::WithPattern(kDeviceBytes);
  LoopDevice device(image.path(), 512, /*read_only=*/false);
  NEED_OR_SKIP(device.attached(), device.problem());
  Export::Facts facts;
  facts.size_bytes = kDeviceBytes;
  facts.block_device = true;
  const auto open_device = [&](int flags) {
    return UniqueFd(open(device.path().c_str(), O_RDWR | O_CLOEXEC | flags));
  };
  const auto target = Direct::Create(
      std::make_unique<nbdtest::FakeExport>(open_device(0), facts),
      open_device(O_DIRECT), {.block = 512, .memory = 4096});
  Bytes model = Pattern(0, kDeviceBytes);
  for (const auto& [offset, length] :
       {std::pair<uint64_t, size_t>{kDeviceBytes - 512, 512},
        {kDeviceBytes - 1, 1},
        {4 * kPage + 100, 1000},
        {512, kDeviceBytes - 512}}) {
    const Bytes bytes = Pattern(offset, length, 2 + length);
    EXPECT_EQ(target->Write(offset, absl::MakeConstSpan(bytes), false), 0)
        << offset << ", " << length;
    model.replace(offset, length, bytes);
    Bytes read(kDeviceBytes, '#');
    size_t done = 0;
    EXPECT_EQ(target->Read(0, absl::MakeSpan(read.data(), read.size()), &done),
              StorageError());
    EXPECT_TRUE(read == model) << offset << ", " << length;
  }
}

}  // namespace
}  // namespace nbdinetd
