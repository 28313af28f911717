#include "export/extents.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "support/image.h"
#include "support/loop_device.h"
#include "support/private_mount.h"

// The next maps leave this extent out, as XFS does what lies in its second map only.
static std::optional<size_t> left_out_extent;

// Instead of the C library's.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  const auto result = static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  if (request != FS_IOC_FIEMAP || result != 0 || !left_out_extent.has_value()) return result;
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

bool operator==(const Extent& a, const Extent& b) {
  return a.length_bytes == b.length_bytes && a.hole == b.hole;
}
void PrintTo(const Extent& extent, std::ostream* out) {
  *out << extent.length_bytes << (extent.hole ? " hole" : " data");
}

namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kBlocks = 2048;
constexpr uint64_t kSize = kBlocks * kBlock;

// A file without a name where the tests work, of `size` bytes of hole.
UniqueFd SparseFile(uint64_t size) {
  const char* folder = getenv("TMPDIR");
  UniqueFd fd(open(folder != nullptr ? folder : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

std::vector<Extent> Find(int fd, ExtentMap map, uint64_t offset, uint64_t end,
                         size_t limit = SIZE_MAX) {
  std::vector<Extent> extents;
  EXPECT_EQ(FindExtents(fd, offset, end, kSize, limit, map, &extents), 0);
  return extents;
}

// What may be left unsaid of the last extent is how far it reaches: cut to the range.
std::vector<Extent> Cut(std::vector<Extent> extents, uint64_t length) {
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
    map_ = ExtentMapOf(file_.get());
    if (map_ == ExtentMap::kNone) GTEST_SKIP() << "the file system's map isn't used";
  }
  void Write(uint64_t block, uint64_t blocks) {
    const std::string bytes(blocks * kBlock, 'x');
    ASSERT_EQ(pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(block * kBlock)),
              static_cast<ssize_t>(bytes.size()));
  }
  void Allocate(int mode, uint64_t block, uint64_t blocks) {
    ASSERT_EQ(fallocate(file_.get(), mode, static_cast<off_t>(block * kBlock),
                        static_cast<off_t>(blocks * kBlock)),
              0);
  }
  UniqueFd file_ = SparseFile(kSize);
  ExtentMap map_ = ExtentMap::kNone;
};

// The map of the storage doesn't have it yet.
TEST_F(MapTest, WhatIsOnlyInThePageCacheIsData) {
  Write(10, 1);
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize),
            (std::vector<Extent>{
                {10 * kBlock, true}, {kBlock, false}, {kSize - 11 * kBlock, true}}));
}

TEST_F(MapTest, WhatIsWrittenIntoAllocatedSpaceIsDataAtOnce) {
  Allocate(0, 100, 50);
  fsync(file_.get());
  Write(120, 2);
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize),
            (std::vector<Extent>{
                {120 * kBlock, true}, {2 * kBlock, false}, {kSize - 122 * kBlock, true}}));
}

TEST_F(MapTest, MoreExtentsThanOneCallBringsAreAllFound) {
  std::vector<Extent> all;
  for (uint64_t block = 0; block < kBlocks; block += 2) {
    Write(block, 1);
    all.push_back({kBlock, false});
    all.push_back({kBlock, true});
  }
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize), all);
  fsync(file_.get());
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize), all);
  EXPECT_EQ(Find(file_.get(), map_, 0, kSize, 777),
            std::vector<Extent>(all.begin(), all.begin() + 777));
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
    ASSERT_EQ(Cut(Find(file_.get(), map_, offset, end), end - offset),
              Cut(Find(file_.get(), ExtentMap::kNone, offset, end), end - offset))
        << "round " << round << ", from " << offset << " to " << end;
  }
}

// A truncated file has three parts: what is there, hole as well, and what is lost.
TEST(FindExtents, TellsNothingOfWhatLiesBehindTheRange) {
  const UniqueFd file = SparseFile(4 * kBlock);
  for (const ExtentMap use_map : {ExtentMap::kNone, ExtentMapOf(file.get())}) {
    EXPECT_EQ(Find(file.get(), use_map, 0, kBlock), (std::vector<Extent>{{4 * kBlock, true}}));
    EXPECT_EQ(Find(file.get(), use_map, 0, 4 * kBlock),
              (std::vector<Extent>{{4 * kBlock, true}}));
    EXPECT_EQ(Find(file.get(), use_map, 0, 5 * kBlock),
              (std::vector<Extent>{{4 * kBlock, true}, {kSize - 4 * kBlock, false}}));
  }
}

TEST_F(MapTest, WhatTheMapLeavesOutIsDataWhereItsHolesArentTrusted) {
  for (const uint64_t block : {10, 20, 30, 40}) Write(block, 1);
  for (const size_t left_out : {0, 1, 2, 3}) {
    left_out_extent = left_out;
    const std::vector<Extent> found = Find(file_.get(), ExtentMap::kNoHoles, 0, kSize);
    left_out_extent.reset();
    EXPECT_EQ(found, Find(file_.get(), ExtentMap::kNone, 0, kSize)) << left_out;
  }
}

// Copying a shared block on write, XFS takes space for its neighbours, too.
TEST(FileSystemOfSharedBlocks, WhatIsWrittenBesideOneIsData) {
  NBDTEST_REQUIRE(geteuid() == 0, "mounting needs root");
  const nbdtest::TempImage disk = nbdtest::TempImage::Sparse(300 << 20);
  const std::string make = "PATH=$PATH:/usr/sbin:/sbin mkfs.xfs -q -m reflink=1 " + disk.path();
  NBDTEST_REQUIRE(std::system(make.c_str()) == 0, "no mkfs.xfs");
  const nbdtest::LoopDevice device(disk.path(), 512, /*read_only=*/false);
  NBDTEST_REQUIRE(device.attached(), device.problem());
  const nbdtest::PrivateMount mount("xfs", "", device.path());
  NBDTEST_REQUIRE(mount.mounted(), mount.problem());
  const auto create = [&](const char* name) {
    return UniqueFd(open((mount.path() + name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  };
  const std::string bytes(kBlock, 'x');
  const auto write = [&](const UniqueFd& file, uint64_t block) {
    ASSERT_EQ(pwrite(file.get(), bytes.data(), kBlock, static_cast<off_t>(block * kBlock)),
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
  EXPECT_EQ(Find(copy.get(), ExtentMapOf(copy.get()), 0, kSize),
            Find(copy.get(), ExtentMap::kNone, 0, kSize));
}

TEST(ExtentMapOf, IsNoneWhereThereIsNoFileSystem) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd ends[] = {UniqueFd(fds[0]), UniqueFd(fds[1])};
  EXPECT_EQ(ExtentMapOf(fds[0]), ExtentMap::kNone);
}

}  // namespace
}  // namespace nbdinetd
