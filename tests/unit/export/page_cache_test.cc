// Both ways to know what is cached give the same answers, and neither believes
// a kernel that refuses one.

#include "export/page_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/page_size.h"
#include "base/unique_fd.h"
#include "export/export.h"
#include "export/open.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/private_mount.h"
#include "support/without_calls.h"
#include "unit/sandbox/child.h"

namespace nbdinetd {
namespace {

using nbdtest::kCachestat;
using nbdtest::Pattern;
using nbdtest::TempImage;
using nbdtest::WithoutCalls;

constexpr uint64_t kMiB = 1 << 20;
// Larger than a block and a page of any machine.
constexpr uint64_t kBlock = 64 << 10;

UniqueFd OpenFile(const std::string& path, int flags = O_RDONLY) {
  return UniqueFd(open(path.c_str(), flags | O_CLOEXEC));
}

// Whether this process maps the file.
bool IsMapped(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    if (line.find(path) != std::string::npos) return true;
  }
  return false;
}

bool KernelHasCachestat() {
  const UniqueFd fd(memfd_create("probe", MFD_CLOEXEC));
  uint64_t range[2] = {0, 1}, counts[5];
  return syscall(kCachestat, fd.get(), range, counts, 0) == 0;
}

class PageCacheTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (by_mincore()) return;
    NBDTEST_REQUIRE(KernelHasCachestat(), "the kernel has no cachestat(2)");
  }
  bool by_mincore() const { return GetParam() == std::string("Mincore"); }

  // Runs `function` where the kernel has only this way.
  void InItsWay(const std::function<void()>& function) const {
    if (by_mincore()) {
      WithoutCalls({kCachestat}, function);
    } else {
      WithoutCalls({SYS_mincore}, function);
    }
  }

  // A file whose pages are cached where it was written, and nowhere else: what
  // is a hole was never read.
  const TempImage image_ = TempImage::Sparse(32 * kMiB + 517);
};

INSTANTIATE_TEST_SUITE_P(By, PageCacheTest,
                         testing::Values("Cachestat", "Mincore"),
                         [](const auto& way) { return way.param; });

TEST_P(PageCacheTest, KnowsEachPage) {
  image_.Write(0, Pattern(0, kBlock));
  image_.Write(2 * kBlock, Pattern(0, kBlock));
  const uint64_t page = PageBytes();
  InItsWay([&] {
    const UniqueFd fd = OpenFile(image_.path());
    PageCache cache(fd.get(), image_.size());
    EXPECT_EQ(IsMapped(image_.path()), by_mincore());
    EXPECT_EQ(cache.Holds(0, 1), true);
    EXPECT_EQ(cache.Holds(0, kBlock), true);
    EXPECT_EQ(cache.Holds(page - 1, 2), true);
    EXPECT_EQ(cache.Holds(kBlock - 1, 1), true);
    EXPECT_EQ(cache.Holds(kBlock - 1, 2), false);
    EXPECT_EQ(cache.Holds(kBlock, 1), false);
    EXPECT_EQ(cache.Holds(0, 3 * kBlock), false);
    EXPECT_EQ(cache.Holds(2 * kBlock - 1, 1), false);
    EXPECT_EQ(cache.Holds(2 * kBlock, kBlock), true);
    // Without a page of the file in between, this would be the last one.
    EXPECT_EQ(cache.Holds(image_.size() - 1, 1), false);
  });
  image_.Write(image_.size() - 1, "x");
  InItsWay([&] {
    const UniqueFd fd = OpenFile(image_.path());
    PageCache cache(fd.get(), image_.size());
    EXPECT_EQ(cache.Holds(image_.size() - 1, 1), true);
  });
  EXPECT_FALSE(IsMapped(image_.path()));
}

// The kernel is asked for a part of the pages at a time.
TEST_P(PageCacheTest, KnowsOnePageOfManyThatIsMissing) {
  for (const uint64_t missing : {uint64_t{0}, 16 * kMiB, 32 * kMiB - kBlock}) {
    const TempImage image = TempImage::Sparse(32 * kMiB);
    for (uint64_t at = 0; at < 32 * kMiB; at += kBlock) {
      if (at != missing) image.Write(at, Pattern(at, kBlock));
    }
    InItsWay([&] {
      const UniqueFd fd = OpenFile(image.path());
      PageCache cache(fd.get(), image.size());
      EXPECT_EQ(cache.Holds(0, 32 * kMiB), false) << missing;
      EXPECT_EQ(cache.Holds(1, 32 * kMiB - 1), false) << missing;
    });
    image.Write(missing, Pattern(missing, kBlock));
    InItsWay([&] {
      const UniqueFd fd = OpenFile(image.path());
      PageCache cache(fd.get(), image.size());
      EXPECT_EQ(cache.Holds(0, 32 * kMiB), true) << missing;
      EXPECT_EQ(cache.Holds(1, 32 * kMiB - 1), true) << missing;
    });
  }
}

TEST_P(PageCacheTest, KnowsThatNothingIsBehindTheEndOfAFileThatHasShrunk) {
  for (uint64_t at = 0; at < 4 * kBlock; at += kBlock) {
    image_.Write(at, Pattern(at, kBlock));
  }
  InItsWay([&] {
    const UniqueFd fd = OpenFile(image_.path());
    PageCache cache(fd.get(), image_.size());
    EXPECT_EQ(cache.Holds(0, 4 * kBlock), true);
    image_.Truncate(kBlock);
    EXPECT_EQ(cache.Holds(0, kBlock), true);
    EXPECT_EQ(cache.Holds(0, 4 * kBlock), false);
    image_.Truncate(0);
    EXPECT_EQ(cache.Holds(0, 1), false);
  });
}

// A folio may be longer than the file that it belongs to.
TEST_P(PageCacheTest, BelievesTheKernelOfAFileThatEndsInALargeFolio) {
  image_.Truncate(0);
  image_.Write(0, Pattern(0, kMiB));
  image_.Truncate(kMiB / 2 + kBlock + 1);
  InItsWay([&] {
    const UniqueFd fd = OpenFile(image_.path());
    PageCache cache(fd.get(), image_.size());
    EXPECT_EQ(cache.Holds(0, image_.size()), true);
  });
}

// mincore() can then no longer be told from a refusal: unknown is right, too.
TEST_P(PageCacheTest, SaysNothingWrongOfAFileThatHasGrown) {
  image_.Truncate(kBlock);
  image_.Write(0, Pattern(0, kBlock));
  InItsWay([&] {
    const UniqueFd fd = OpenFile(image_.path());
    PageCache cache(fd.get(), kBlock);
    image_.Truncate(4 * kMiB);
    EXPECT_EQ(cache.Holds(0, kBlock), true);
    image_.Write(kBlock, Pattern(kBlock, 4 * kMiB - kBlock));
    EXPECT_NE(cache.Holds(0, kBlock), false);
  });
}

TEST_P(PageCacheTest, AnEmptyFileHasNothing) {
  image_.Truncate(0);
  InItsWay([&] {
    const UniqueFd fd = OpenFile(image_.path());
    PageCache cache(fd.get(), 0);
    EXPECT_NE(cache.Holds(0, 1), true);
  });
}

TEST_P(PageCacheTest, ALargeFileTakesAddressSpaceOnly) {
  constexpr uint64_t kSize = uint64_t{16} << 40;
  const UniqueFd memory(memfd_create("export", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.get(), kSize), 0);
  ASSERT_EQ(pwrite(memory.get(), "x", 1, kSize - 1), 1);
  InItsWay([&] {
    PageCache cache(memory.get(), kSize);
    EXPECT_EQ(cache.Holds(kSize - 1, 1), true);
    EXPECT_EQ(cache.Holds(kSize / 2, 64 * kMiB), false);
  });
}

TEST_P(PageCacheTest, OnlyCachestatKnowsWhatIsDirty) {
  const UniqueFd memory(memfd_create("export", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.get(), kBlock), 0);
  InItsWay([&] {
    PageCache cache(memory.get(), kBlock);
    EXPECT_EQ(cache.IsClean(0, kBlock).has_value(), !by_mincore());
  });
}

// A limit on the address space is on all of it: what the mapping takes, the
// heap and the threads would lack.
TEST(MincoreTest, ALimitedAddressSpaceIsLeftToTheProcess) {
  const TempImage image = TempImage::Sparse(uint64_t{2} << 40);
  const auto is_mapped_with = [&](uint64_t limit, uint64_t size) {
    return nbdtest::InChild([&] {
      std::ifstream status("/proc/self/statm");
      uint64_t pages = 0;
      status >> pages;
      const rlimit bound = {pages * PageBytes() + limit, RLIM_INFINITY};
      int result = 3;
      WithoutCalls({kCachestat}, [&] {
        const UniqueFd fd = OpenFile(image.path());
        if (setrlimit(RLIMIT_AS, &bound) != 0) return;
        const PageCache cache(fd.get(), size);
        result = IsMapped(image.path()) ? 1 : 0;
      });
      return result;
    });
  };
  EXPECT_EQ(is_mapped_with(uint64_t{3} << 40, uint64_t{2} << 40), 1);
  EXPECT_EQ(is_mapped_with(1024 * kMiB, uint64_t{2} << 40), 0);
  EXPECT_EQ(is_mapped_with(1024 * kMiB, 1000 * kMiB), 0);
  EXPECT_EQ(is_mapped_with(1024 * kMiB, 100 * kMiB), 1);
}

// For a file on overlayfs, cachestat() knows of no page.
TEST(MincoreTest, AFileOnAnOverlayIsMapped) {
  const nbdtest::TempDir layers;
  for (const char* name : {"/lower", "/upper", "/work"}) {
    ASSERT_EQ(mkdir((layers.path() + name).c_str(), 0755), 0);
  }
  const nbdtest::PrivateMount overlay(
      "overlay", "lowerdir=" + layers.path() +
                     "/lower,upperdir=" + layers.path() +
                     "/upper,workdir=" + layers.path() + "/work");
  NBDTEST_REQUIRE(overlay.mounted(), overlay.problem());
  const std::string path = overlay.path() + "/image";
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const nbdtest::Bytes bytes = Pattern(0, kBlock);
  ASSERT_EQ(pwrite(fd.get(), bytes.data(), kBlock, 0), ssize_t{kBlock});
  PageCache cache(fd.get(), kBlock);
  EXPECT_EQ(cache.Holds(0, kBlock), true);
}

// Locks on an open file description stay as long as it is mapped.
TEST(MincoreTest, TheMappingEndsWithTheExport) {
  const TempImage image = TempImage::WithPattern(kBlock);
  WithoutCalls({kCachestat}, [&] {
    std::string reason;
    auto target = OpenExport(image.path(), ExportSettings{}, &reason);
    ASSERT_TRUE(target.ok()) << target.status();
    EXPECT_TRUE(IsMapped(image.path()));
    target->reset();
    EXPECT_FALSE(IsMapped(image.path()));
  });
}

// -- Refused

// A file of somebody else, for reading, of which a thread of another user asks.
class RefusedTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    NBDTEST_REQUIRE(geteuid() == 0, "needs root, for a file of another user");
    ASSERT_EQ(chmod(image_.path().c_str(), 0644), 0);
  }

  // Calls `function` with an export of cached pages that it may only read.
  void WithExport(const std::function<void(Export&)>& function) const {
    std::vector<long> missing;
    if (GetParam() == std::string("WithoutCachestat")) missing = {kCachestat};
    if (GetParam() == std::string("WithoutBoth")) {
      missing = {kCachestat, SYS_mincore};
    }
    WithoutCalls(missing, [&] {
      UniqueFd fd = OpenFile(image_.path());
      Export::Facts facts;
      facts.size_bytes = image_.size();
      facts.read_only = true;
      nbdtest::FakeExport target(std::move(fd), facts);
      // Of this thread alone, and with it go the capabilities.
      ASSERT_EQ(syscall(SYS_setresuid, 65534, 65534, 65534), 0);
      function(target);
    });
  }

  const TempImage image_ = TempImage::WithPattern(8 * kBlock);
};

INSTANTIATE_TEST_SUITE_P(Kernel, RefusedTest,
                         testing::Values("Whole", "WithoutCachestat",
                                         "WithoutBoth"),
                         [](const auto& kernel) { return kernel.param; });

TEST_P(RefusedTest, WhatIsCachedIsKnownAllTheSame) {
  WithExport([&](Export& target) {
    EXPECT_TRUE(target.IsCached(0, 1));
    EXPECT_TRUE(target.IsCached(kBlock + 1, kBlock));
    EXPECT_TRUE(target.IsCached(0, 8 * kBlock));
    EXPECT_TRUE(target.IsCached(8 * kBlock - 1, 1));
  });
}

TEST_P(RefusedTest, WhatIsNotCachedIsKnownToo) {
  WithExport([&](Export& target) {
    EXPECT_TRUE(nbdtest::OnceDropped(
        image_, [&] { return !target.IsCached(0, 8 * kBlock); }));
  });
}

}  // namespace
}  // namespace nbdinetd
