#include "export/extents.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdlib>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/unique_fd.h"
#include "support/extent.h"
#include "support/image.h"
#include "support/loop_device.h"
#include "support/private_mount.h"

// The next maps leave this extent out, as XFS does what lies in its second map
// only.
static std::optional<size_t> left_out_extent;
// The next maps are of a file whose blocks are all data, each an extent of its
// own; their number.
static std::optional<size_t> fragmented_maps;

static int MapFragments(fiemap* map) {
  ++*fragmented_maps;
  map->fm_mapped_extents = map->fm_extent_count;
  for (uint32_t i = 0; i < map->fm_extent_count; ++i) {
    map->fm_extents[i] = {};
    map->fm_extents[i].fe_logical = map->fm_start + i * 4096;
    map->fm_extents[i].fe_length = 4096;
  }
  return 0;
}

// Instead of the C library's.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (request == FS_IOC_FIEMAP && fragmented_maps.has_value()) {
    return MapFragments(static_cast<fiemap*>(argument));
  }
  const auto result =
      static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  if (request != FS_IOC_FIEMAP || result != 0 || !left_out_extent.has_value())
    return result;
  auto* map = static_cast<fiemap*>(argument);
  if (*left_out_extent < map->fm_mapped_extents) {
    --map->fm_mapped_extents;
    for (size_t i = *left_out_extent; i < map->fm_mapped_extents; ++i) {
      map->fm_extents[i] = map->fm_extents[i + 1];
    }
  }
  return 0;
}

namespace nbdinetd {

namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kBlocks = 2048;
constexpr uint64_t kSize = kBlocks * kBlock;

// A file without a name where the tests work, of `size` bytes of hole.
UniqueFd SparseFile(uint64_t size) {
  const char* folder = getenv("TMPDIR");
  UniqueFd fd(open(folder != nullptr ? folder : "/var/tmp",
                   O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

Extents Find(int fd, ExtentSource source, uint64_t offset, uint64_t end,
             size_t limit = SIZE_MAX) {
  Extents extents;
  const auto is_clean = [](uint64_t, uint64_t) {
    ADD_FAILURE() << "asked for dirty pages";
    return false;
  };
  EXPECT_EQ(
      FindExtents(fd, {offset, end, kSize, limit}, source, is_clean, &extents),
      0);
  return extents;
}

// What may be left unsaid of the last extent is how far it reaches: cut to the
// range.
Extents Cut(Extents extents, uint64_t length) {
  for (size_t i = 0; i < extents.size(); ++i) {
    if (extents[i].length_bytes >= length) {
      extents[i].length_bytes = length;
      extents.resize(i + 1);
    } else {
      length -= extents[i].length_bytes;
    }
  }
  return extents;
}

class MapTest : public testing::Test {
 protected:
  void SetUp() override {
    map_ = ExtentSourceOf(file_.get());
    if (map_ != ExtentSource::kMap && map_ != ExtentSource::kMapWithoutHoles) {
      GTEST_SKIP() << "the file system's map isn't used";
    }
  }
  void Write(uint64_t block, uint64_t blocks) {
    const std::string bytes(blocks * kBlock, 'x');
    ASSERT_EQ(pwrite(file_.get(), bytes.data(), bytes.size(),
                     static_cast<off_t>(block * kBlock)),
              static_cast<ssize_t>(bytes.size()));
  }
  void Allocate(int mode, uint64_t block, uint64_t blocks) {
    ASSERT_EQ(fallocate(file_.get(), mode, static_cast<off_t>(block * kBlock),
                        static_cast<off_t>(blocks * kBlock)),
              0);
  }
  UniqueFd file_ = SparseFile(kSize);
  ExtentSource map_ = ExtentSource::kSeek;
};

// The map of the storage doesn't have it yet.
TEST_F(MapTest, WhatIsOnlyInThePageCacheIsData) {
  Write(10, 1);
  EXPECT_EQ(
      Find(file_.get(), map_, 0, kSize),
      (Extents{
          {10 * kBlock, true}, {kBlock, false}, {kSize - 11 * kBlock, true}}));
}

TEST_F(MapTest, WhatIsWrittenIntoAllocatedSpaceIsDataAtOnce) {
  Allocate(0, 100, 50);
  fsync(file_.get());
  Write(120, 2);
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize),
            (Extents{{120 * kBlock, true},
                     {2 * kBlock, false},
                     {kSize - 122 * kBlock, true}}));
}

TEST_F(MapTest, MoreExtentsThanOneCallBringsAreAllFound) {
  Extents all;
  for (uint64_t block = 0; block < kBlocks; block += 2) {
    Write(block, 1);
    all.push_back({kBlock, false});
    all.push_back({kBlock, true});
  }
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize), all);
  fsync(file_.get());
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize), all);
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize, 777),
            Extents(all.begin(), all.begin() + 777));
}

// Whatever is done to a file, and whatever of it has reached the storage.
TEST_F(MapTest, AgreesWithSeekingForDataAndHoles) {
  std::mt19937 random(20);
  const auto below = [&](uint64_t n) { return random() % n; };
  for (int round = 0; round < 400; ++round) {
    const uint64_t block = below(kBlocks - 64);
    const uint64_t blocks = 1 + below(64);
    switch (below(5)) {
      case 0:
      case 1:
        Write(block, blocks);
        break;
      case 2:
        Allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block, blocks);
        break;
      case 3:
        Allocate(0, block, blocks);
        break;
      case 4:
        if (below(4) == 0) fsync(file_.get());
        break;
    }
    const uint64_t offset = below(kSize - 1);
    const uint64_t end = offset + 1 + below(kSize - offset);
    ASSERT_EQ(
        Cut(Find(file_.get(), map_, offset, end), end - offset),
        Cut(Find(file_.get(), ExtentSource::kSeek, offset, end), end - offset))
        << "round " << round << ", from " << offset << " to " << end;
  }
}

// A truncated file has three parts: what is there, hole as well, and what is
// lost.
// Whether each byte is data, by the definition: a block in which one byte is.
TEST(AlignExtents, ABlockIsAHoleIfAllOfItIs) {
  constexpr uint64_t kMinimum = 8;
  std::minstd_rand random(1);
  for (int round = 0; round < 10000; ++round) {
    Extents extents;
    bool hole = (random() & 1) != 0;
    std::vector<bool> is_data;
    for (int i = 1 + static_cast<int>(random() % 6); i > 0; --i) {
      extents.push_back({1 + random() % 20, hole});
      is_data.insert(is_data.end(), extents.back().length_bytes, !hole);
      hole = !hole;
    }
    Extents aligned = extents;
    // The last extent may end behind the range, and no other.
    const uint64_t before = is_data.size() - extents.back().length_bytes;
    const uint64_t length =
        (before + 1 + random() % extents.back().length_bytes + kMinimum - 1) /
        kMinimum * kMinimum;
    AlignExtents(kMinimum, length, &aligned);
    ASSERT_FALSE(aligned.empty());
    uint64_t begin = 0;
    for (size_t i = 0; i < aligned.size(); ++i) {
      ASSERT_GT(aligned[i].length_bytes, 0u);
      ASSERT_EQ(aligned[i].length_bytes % kMinimum, 0u);
      ASSERT_TRUE(i == 0 || aligned[i].hole != aligned[i - 1].hole);
      for (uint64_t end = begin + aligned[i].length_bytes; begin < end;
           begin += kMinimum) {
        bool data = false;
        for (uint64_t at = begin; at < begin + kMinimum; ++at) {
          // What isn't known yet is told as data.
          data |= at >= is_data.size() || is_data[at];
        }
        ASSERT_EQ(aligned[i].hole, !data) << round << " at " << begin;
      }
    }
    ASSERT_LT(begin - aligned.back().length_bytes, length) << round;
    // Only less than a block at the end is left for the next request.
    ASSERT_GT(begin + kMinimum, std::min<uint64_t>(is_data.size(), length));
  }
}

TEST(FindExtents, TellsNothingOfWhatLiesBehindTheRange) {
  const UniqueFd file = SparseFile(4 * kBlock);
  for (const ExtentSource use_map :
       {ExtentSource::kSeek, ExtentSourceOf(file.get())}) {
    EXPECT_EQ(Find(file.get(), use_map, 0, kBlock),
              (Extents{{4 * kBlock, true}}));
    EXPECT_EQ(Find(file.get(), use_map, 0, 4 * kBlock),
              (Extents{{4 * kBlock, true}}));
    EXPECT_EQ(Find(file.get(), use_map, 0, 5 * kBlock),
              (Extents{{4 * kBlock, true}, {kSize - 4 * kBlock, false}}));
  }
}

TEST_F(MapTest, WhatTheMapLeavesOutIsDataWhereItsHolesArentTrusted) {
  for (const uint64_t block : {10, 20, 30, 40}) Write(block, 1);
  for (const size_t left_out : {0, 1, 2, 3}) {
    left_out_extent = left_out;
    const Extents found =
        Find(file_.get(), ExtentSource::kMapWithoutHoles, 0, kSize);
    left_out_extent.reset();
    EXPECT_EQ(found, Find(file_.get(), ExtentSource::kSeek, 0, kSize))
        << left_out;
  }
}

// Copying a shared block on write, XFS takes space for its neighbours, too.
TEST(FileSystemOfSharedBlocks, WhatIsWrittenBesideOneIsData) {
  NBDTEST_REQUIRE(geteuid() == 0, "mounting needs root");
  const nbdtest::TempImage disk = nbdtest::TempImage::Sparse(300 << 20);
  const std::string make =
      "PATH=$PATH:/usr/sbin:/sbin mkfs.xfs -q -m reflink=1 " + disk.path();
  NBDTEST_REQUIRE(std::system(make.c_str()) == 0, "no mkfs.xfs");
  const nbdtest::LoopDevice device(disk.path(), 512, /*read_only=*/false);
  NBDTEST_REQUIRE(device.attached(), device.problem());
  const nbdtest::PrivateMount mount("xfs", "", device.path());
  NBDTEST_REQUIRE(mount.mounted(), mount.problem());
  const auto create = [&](const char* name) {
    return UniqueFd(open((mount.path() + name).c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  };
  const std::string bytes(kBlock, 'x');
  const auto write = [&](const UniqueFd& file, uint64_t block) {
    ASSERT_EQ(pwrite(file.get(), bytes.data(), kBlock,
                     static_cast<off_t>(block * kBlock)),
              static_cast<ssize_t>(kBlock));
  };
  const UniqueFd original = create("/original");
  ASSERT_EQ(ftruncate(original.get(), static_cast<off_t>(kSize)), 0);
  for (uint64_t block = 0; block < 1024; block += 64) write(original, block);
  const UniqueFd copy = create("/copy");
  ASSERT_EQ(ioctl(copy.get(), FICLONE, original.get()), 0);
  fsync(copy.get());
  for (uint64_t block = 0; block < 1024; block += 64) {
    write(copy, block);
    write(copy, block + 4);
  }
  EXPECT_EQ(Find(copy.get(), ExtentSourceOf(copy.get()), 0, kSize),
            Find(copy.get(), ExtentSource::kSeek, 0, kSize));
}

TEST(ExtentSourceOf, IsTheCarefulOneWhereThereIsNoFileSystem) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd ends[] = {UniqueFd(fds[0]), UniqueFd(fds[1])};
  EXPECT_EQ(ExtentSourceOf(fds[0]), ExtentSource::kSeekAfterSync);
}

TEST(FindExtents, TellsAnErrorOfTheStorage) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd ends[] = {UniqueFd(fds[0]), UniqueFd(fds[1])};
  const auto is_clean = [](uint64_t, uint64_t) { return true; };
  for (const ExtentSource source :
       {ExtentSource::kMap, ExtentSource::kMapWithoutHoles, ExtentSource::kSeek,
        ExtentSource::kSeekWhereClean, ExtentSource::kSeekAfterSync}) {
    Extents extents;
    EXPECT_EQ(
        FindExtents(fds[0], {0, kSize, kSize, 10}, source, is_clean, &extents),
        ESPIPE);
    EXPECT_TRUE(extents.empty());
  }
}

// -- Extents that are one for the client

constexpr uint64_t kTiB = uint64_t{1} << 40;

TEST(ManyExtentsInOne, AreLookedAtSoManyTimes) {
  const UniqueFd file = SparseFile(kTiB);
  std::atomic<bool> cut_short = false;
  for (const bool cut : {false, true}) {
    cut_short = cut;
    fragmented_maps = 0;
    Extents extents;
    EXPECT_EQ(
        FindExtents(
            file.get(), {0, kTiB, kTiB, 10, &cut_short}, ExtentSource::kMap,
            [](uint64_t, uint64_t) { return true; }, &extents),
        0);
    EXPECT_EQ(*fragmented_maps, cut ? 1 : kMaxExtentLooks);
    fragmented_maps.reset();
    ASSERT_EQ(extents.size(), 1u);
    EXPECT_FALSE(extents[0].hole);
    EXPECT_GE(extents[0].length_bytes, 4096u);
  }
}

TEST(ManyExtentsInOne, AreCheckedForDirtyPagesSoManyTimes) {
  const UniqueFd file = SparseFile(kTiB);
  std::atomic<bool> cut_short = false;
  for (const size_t cut_at : {size_t{0}, size_t{100}}) {
    cut_short = false;
    size_t asked = 0;
    Extents extents;
    const auto is_clean = [&](uint64_t, uint64_t) {
      if (++asked == cut_at) cut_short = true;
      return false;
    };
    EXPECT_EQ(FindExtents(file.get(), {0, kTiB, kTiB, 10, &cut_short},
                          ExtentSource::kSeekWhereClean, is_clean, &extents),
              0);
    EXPECT_EQ(asked, cut_at == 0 ? kMaxExtentLooks : cut_at);
    ASSERT_EQ(extents.size(), 1u);
    EXPECT_FALSE(extents[0].hole);
    EXPECT_LT(extents[0].length_bytes, kTiB);
  }
}

// -- Holes that have to be doubted. The file's own are real; what is dirty, the
// test says.

class DoubtTest : public testing::Test {
 protected:
  void Write(uint64_t offset, uint64_t length) {
    const std::string bytes(length, 'x');
    ASSERT_EQ(pwrite(file_.get(), bytes.data(), bytes.size(),
                     static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }
  Extents Find(uint64_t offset, uint64_t end, size_t limit = SIZE_MAX) {
    Extents extents;
    const auto is_clean = [&](uint64_t from, uint64_t length) {
      ++asked_;
      EXPECT_GT(length, 0u);
      EXPECT_GE(from, offset);
      EXPECT_LE(from + length, end);
      if (on_ask_ && asked_ == 1) on_ask_();
      return dirty_end_ <= from || from + length <= dirty_begin_;
    };
    EXPECT_EQ(FindExtents(file_.get(), {offset, end, kLarge, limit},
                          ExtentSource::kSeekWhereClean, is_clean, &extents),
              0);
    return extents;
  }
  static constexpr uint64_t kMiB = 1 << 20;
  static constexpr uint64_t kLarge = 64 * kMiB;
  UniqueFd file_ = SparseFile(kLarge);
  uint64_t dirty_begin_ = 0, dirty_end_ = 0;
  std::function<void()> on_ask_;
  int asked_ = 0;
};

TEST_F(DoubtTest, AHoleWithoutDirtyPagesIsOne) {
  EXPECT_EQ(Find(0, kLarge), (Extents{{kLarge, true}}));
  Write(8 * kMiB, kMiB);
  EXPECT_EQ(Find(0, kLarge),
            (Extents{{8 * kMiB, true}, {kMiB, false}, {55 * kMiB, true}}));
}

// What is dirty elsewhere in the file, or behind the range, is not asked about.
TEST_F(DoubtTest, NothingIsToldBehindTheRange) {
  dirty_begin_ = 32 * kMiB;
  dirty_end_ = kLarge;
  EXPECT_EQ(Find(kMiB, 3 * kMiB), (Extents{{2 * kMiB, true}}));
}

TEST_F(DoubtTest, AroundDirtyPagesAHoleIsData) {
  dirty_begin_ = 20 * kMiB + 4096;
  dirty_end_ = dirty_begin_ + 4096;
  const Extents found = Find(0, kLarge);
  uint64_t position = 0;
  for (const Extent& extent : found) {
    const uint64_t end = position + extent.length_bytes;
    EXPECT_TRUE(!extent.hole || end <= dirty_begin_ || dirty_end_ <= position)
        << position;
    // No more of it than has to be.
    EXPECT_TRUE(extent.hole || extent.length_bytes <= 2 * kMiB)
        << extent.length_bytes;
    position = end;
  }
  EXPECT_EQ(position, kLarge);
  EXPECT_EQ(found.size(), 3u);
}

TEST_F(DoubtTest, AHoleThatIsDirtyAsAWholeIsDataAndSoonTold) {
  dirty_end_ = kLarge;
  EXPECT_EQ(Find(0, kLarge), (Extents{{kLarge, false}}));
  // Each piece once, and a way down to its size.
  EXPECT_LE(asked_, 64 + 8);
}

// Dirty pages become clean, and their blocks known, between the first look at
// the map and the look for dirty pages.
TEST_F(DoubtTest, TheMapIsAskedAgainAfterThePagesWereClean) {
  on_ask_ = [&] { Write(16 * kMiB, kMiB); };
  EXPECT_EQ(Find(0, kLarge),
            (Extents{{16 * kMiB, true}, {kMiB, false}, {47 * kMiB, true}}));
}

TEST_F(DoubtTest, TheLimitOfExtentsHolds) {
  for (uint64_t at = 0; at < kLarge; at += 2 * kMiB) Write(at, kMiB);
  EXPECT_EQ(Find(0, kLarge).size(), 64u);
  EXPECT_EQ(Find(0, kLarge, 5).size(), 5u);
}

// -- Which file systems are believed

struct Made {
  const char* name;
  const char* make;  // ... IMAGE
  const char* type;
  ExtentSource source;
};
void PrintTo(const Made& made, std::ostream* out) { *out << made.name; }

class SourceTest : public testing::TestWithParam<Made> {};

INSTANTIATE_TEST_SUITE_P(
    Of, SourceTest,
    testing::Values(
        Made{"Ext2", "mkfs.ext2 -q -F", "ext2", ExtentSource::kSeekWhereClean},
        Made{"Ext3", "mkfs.ext3 -q -F", "ext3", ExtentSource::kSeekWhereClean},
        Made{"Ext4", "mkfs.ext4 -q -F", "ext4", ExtentSource::kMap},
        Made{"Ext4WithoutExtents", "mkfs.ext4 -q -F -O ^extents,^64bit", "ext4",
             ExtentSource::kSeekWhereClean},
        Made{"Xfs", "mkfs.xfs -q", "xfs", ExtentSource::kMapWithoutHoles},
        Made{"Btrfs", "mkfs.btrfs -q", "btrfs", ExtentSource::kSeek}),
    [](const auto& made) { return made.param.name; });

TEST_P(SourceTest, DependsOnTheFileSystem) {
  NBDTEST_REQUIRE(geteuid() == 0, "mounting needs root");
  const nbdtest::TempImage disk = nbdtest::TempImage::Sparse(300 << 20);
  const std::string make = std::string("PATH=$PATH:/usr/sbin:/sbin ") +
                           GetParam().make + " " + disk.path() +
                           " >/dev/null 2>&1";
  NBDTEST_REQUIRE(std::system(make.c_str()) == 0,
                  "the tool that makes it fails");
  const nbdtest::LoopDevice device(disk.path(), 512, /*read_only=*/false);
  NBDTEST_REQUIRE(device.attached(), device.problem());
  const nbdtest::PrivateMount mount(GetParam().type, "", device.path());
  NBDTEST_REQUIRE(mount.mounted(), mount.problem());
  const UniqueFd file(open((mount.path() + "/file").c_str(),
                           O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_EQ(ExtentSourceOf(file.get()), GetParam().source);
}

TEST(ExtentSourceOf, OfATmpfsIsTheSeek) {
  const UniqueFd file(static_cast<int>(syscall(SYS_memfd_create, "file", 0u)));
  EXPECT_EQ(ExtentSourceOf(file.get()), ExtentSource::kSeek);
}

}  // namespace
}  // namespace nbdinetd
