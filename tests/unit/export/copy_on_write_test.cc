// Private copies: where they are, what they may occupy, and what becomes of a
// block of which only a part is written.

#include "export/copy_on_write.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "export/layer.h"
#include "export/open.h"
#include "support/extent.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;
using nbdtest::TempImage;

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kNoLimit = CopySettings().max_bytes;

class PrivateCopyTest : public testing::Test {
 protected:
  // A copy of the image, in memory.
  std::shared_ptr<Export> Copy(uint64_t max_bytes = kNoLimit,
                               ExportSettings settings = {}) {
    settings.read_only = true;
    std::string reason;
    auto base = OpenExport(image_.path(), settings, &reason);
    EXPECT_TRUE(base.ok()) << base.status();
    auto file = PrivateCopy::Create({true, true, "", max_bytes});
    EXPECT_TRUE(file.ok()) << file.status();
    copy_fd_ = file->fd();
    auto copy = std::move(*file).Of(*std::move(base));
    EXPECT_TRUE(copy.ok()) << copy.status();
    return *std::move(copy);
  }

  static std::shared_ptr<Export> CopyOf(const TempImage& image) {
    ExportSettings settings;
    settings.read_only = true;
    std::string reason;
    auto base = OpenExport(image.path(), settings, &reason);
    EXPECT_TRUE(base.ok()) << base.status();
    auto file = PrivateCopy::Create({true, true, "", kNoLimit});
    EXPECT_TRUE(file.ok()) << file.status();
    auto copy = std::move(*file).Of(*std::move(base));
    EXPECT_TRUE(copy.ok()) << copy.status();
    return *std::move(copy);
  }

  static Bytes Read(Export& target, uint64_t offset, uint64_t length) {
    Bytes bytes(length, '?');
    size_t done = 0;
    EXPECT_EQ(target.Read(offset, absl::MakeSpan(bytes.data(), length), &done),
              StorageError());
    return bytes;
  }

  static int Write(Export& target, uint64_t offset, const Bytes& bytes) {
    return target.Write(offset, absl::MakeConstSpan(bytes.data(), bytes.size()),
                        false);
  }

  static int Zero(Export& target, uint64_t offset, uint64_t length,
                  Export::Hole hole = Export::Hole::kAllowed) {
    return target.Zero(offset, length, hole, Export::Speed::kAny, nullptr);
  }

  uint64_t CopyOccupies() const {
    struct stat st;
    EXPECT_EQ(fstat(copy_fd_, &st), 0);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  }

  const TempImage image_ = TempImage::WithPattern(64 * kBlock + 100);
  int copy_fd_ = -1;
};

TEST_F(PrivateCopyTest, TwoCopiesShareNothing) {
  const auto one = Copy();
  const auto other = Copy();
  EXPECT_EQ(Write(*one, 100, "one"), 0);
  EXPECT_EQ(Write(*other, 100, "other"), 0);
  EXPECT_EQ(Read(*one, 100, 3), "one");
  EXPECT_EQ(Read(*other, 100, 5), "other");
  EXPECT_TRUE(image_.Read(0, image_.size()) == Pattern(0, image_.size()));
}

TEST_F(PrivateCopyTest, WhatSurroundsAShortWriteStays) {
  const auto copy = Copy();
  Bytes model = Pattern(0, image_.size());
  for (const auto& [offset, length] : {std::pair<uint64_t, uint64_t>{1, 1},
                                       {kBlock - 1, 2},
                                       {2 * kBlock + 7, 3 * kBlock},
                                       {9 * kBlock, kBlock},
                                       {64 * kBlock + 99, 1},
                                       {63 * kBlock + 1, kBlock + 50}}) {
    const Bytes bytes(length, 'x');
    ASSERT_EQ(Write(*copy, offset, bytes), 0);
    model.replace(offset, length, bytes);
  }
  EXPECT_TRUE(Read(*copy, 0, model.size()) == model);
  ASSERT_EQ(Zero(*copy, 20 * kBlock + 5, 3 * kBlock), 0);
  model.replace(20 * kBlock + 5, 3 * kBlock, Bytes(3 * kBlock, '\0'));
  EXPECT_TRUE(Read(*copy, 0, model.size()) == model);
}

// Counts the bytes that are read.
class CountingExport : public Layer {
 public:
  CountingExport(std::shared_ptr<Export> base, bool caches)
      : Layer(std::move(base)), caches_(caches) {}

  bool caches_reads() const override { return caches_; }
  bool IsCached(uint64_t, uint64_t) override { return false; }
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override {
    read_bytes += out.size();
    return Layer::Read(offset, out, done);
  }

  uint64_t read_bytes = 0;

 private:
  const bool caches_;
};

// Where the page cache keeps it, the first reading is without the lock.
TEST_F(PrivateCopyTest, ABlockIsReadTwiceOnlyWhereThePageCacheKeepsIt) {
  for (const bool caches : {false, true}) {
    ExportSettings settings;
    settings.read_only = true;
    std::string reason;
    auto opened = OpenExport(image_.path(), settings, &reason);
    ASSERT_TRUE(opened.ok()) << opened.status();
    const auto counting =
        std::make_shared<CountingExport>(*std::move(opened), caches);
    auto file = PrivateCopy::Create({true, true, "", kNoLimit});
    ASSERT_TRUE(file.ok()) << file.status();
    const auto copy = std::move(*file).Of(counting);
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_EQ(Write(**copy, 3 * kBlock + 7, "x"), 0);
    EXPECT_EQ(counting->read_bytes, (caches ? 2 : 1) * kBlock);
    EXPECT_EQ(Write(**copy, 3 * kBlock + 9, "y"), 0);
    EXPECT_EQ(counting->read_bytes, (caches ? 2 : 1) * kBlock);
    Bytes wanted = Pattern(3 * kBlock, kBlock);
    wanted[7] = 'x';
    wanted[9] = 'y';
    EXPECT_TRUE(Read(**copy, 3 * kBlock, kBlock) == wanted);
  }
}

TEST_F(PrivateCopyTest, OnlyWhatIsWrittenIsOccupied) {
  const auto copy = Copy();
  Read(*copy, 0, image_.size());
  EXPECT_EQ(CopyOccupies(), 0u);
  EXPECT_EQ(Write(*copy, 5 * kBlock + 1, "x"), 0);
  EXPECT_EQ(CopyOccupies(), kBlock);
  EXPECT_EQ(copy->Trim(0, 64 * kBlock), 0);
  EXPECT_EQ(CopyOccupies(), 0u);
  EXPECT_TRUE(Read(*copy, 0, 64 * kBlock) == Bytes(64 * kBlock, '\0'));
}

TEST_F(PrivateCopyTest, NothingOfItHasToBeDurable) {
  const auto copy = Copy();
  EXPECT_TRUE(copy->facts().temporary);
  EXPECT_FALSE(copy->facts().read_only);
  const Bytes bytes = "durable";
  EXPECT_EQ(copy->Write(0, absl::MakeConstSpan(bytes.data(), bytes.size()),
                        /*durable=*/true),
            0);
  EXPECT_EQ(copy->Flush(), 0);
  EXPECT_EQ(Read(*copy, 0, bytes.size()), bytes);
}

// Threads that write different bytes of the same blocks lose none of them.
TEST_F(PrivateCopyTest, NeighboursInOneBlockKeepTheirBytes) {
  for (int round = 0; round < 50; ++round) {
    const auto copy = Copy();
    constexpr uint64_t kThreads = 4;
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        const Bytes bytes(7, static_cast<char>('a' + thread));
        for (uint64_t block = 0; block < 64; ++block) {
          EXPECT_EQ(Write(*copy, block * kBlock + 100 * thread, bytes), 0);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    Bytes model = Pattern(0, 64 * kBlock);
    for (uint64_t thread = 0; thread < kThreads; ++thread) {
      for (uint64_t block = 0; block < 64; ++block) {
        model.replace(block * kBlock + 100 * thread, 7,
                      Bytes(7, static_cast<char>('a' + thread)));
      }
    }
    ASSERT_TRUE(Read(*copy, 0, model.size()) == model) << round;
  }
}

// A whole block that is written while a part of it is completed from below
// isn't overwritten by what was below.
TEST_F(PrivateCopyTest, AWholeBlockWinsOverWhatWasBelow) {
  for (int round = 0; round < 200; ++round) {
    const auto copy = Copy();
    std::thread whole([&] {
      for (uint64_t block = 0; block < 64; ++block) {
        EXPECT_EQ(Write(*copy, block * kBlock, Bytes(kBlock, 'w')), 0);
      }
    });
    for (uint64_t block = 0; block < 64; ++block) {
      EXPECT_EQ(Write(*copy, block * kBlock + 8, "p"), 0);
    }
    whole.join();
    Bytes bytes = Read(*copy, 0, 64 * kBlock);
    for (uint64_t block = 0; block < 64; ++block) {
      char& both = bytes[block * kBlock + 8];
      ASSERT_TRUE(both == 'w' || both == 'p') << round;
      both = 'w';
    }
    ASSERT_TRUE(bytes == Bytes(64 * kBlock, 'w')) << round;
  }
}

// -- Extents

TEST_F(PrivateCopyTest, HolesAreThoseOfWhatIsServed) {
  const TempImage sparse = TempImage::Sparse(64 * kBlock);
  const auto copy = CopyOf(sparse);
  EXPECT_EQ(Write(*copy, 10 * kBlock, Bytes(2 * kBlock, 'x')), 0);
  Extents extents;
  EXPECT_EQ(copy->FindExtents(0, 64 * kBlock, 10, nullptr, &extents), 0);
  ASSERT_EQ(extents.size(), 3u);
  EXPECT_EQ(extents[0], (Extent{10 * kBlock, true}));
  EXPECT_EQ(extents[1], (Extent{2 * kBlock, false}));
  EXPECT_EQ(extents[2], (Extent{52 * kBlock, true}));
  extents.clear();
  EXPECT_EQ(copy->FindExtents(0, 64 * kBlock, 2, nullptr, &extents), 0);
  EXPECT_EQ(extents.size(), 2u);
}

// More than are looked for at once.
TEST_F(PrivateCopyTest, ManyExtentsAreFound) {
  constexpr uint64_t kExtents = 2000;
  const TempImage sparse = TempImage::Sparse(kExtents * kBlock);
  for (uint64_t i = 0; i < kExtents; i += 2) {
    sparse.Write(i * kBlock, Pattern(i * kBlock, kBlock));
  }
  const auto copy = CopyOf(sparse);
  EXPECT_EQ(Write(*copy, 1001 * kBlock, Bytes(kBlock, 'x')), 0);
  uint64_t found = 0;
  for (uint64_t offset = 0; offset < kExtents * kBlock;) {
    Extents extents;
    ASSERT_EQ(copy->FindExtents(offset, kExtents * kBlock - offset, 8192,
                                nullptr, &extents),
              0);
    for (const Extent& extent : extents) {
      const uint64_t block = offset / kBlock;
      EXPECT_EQ(extent.hole, block % 2 == 1 && block != 1001) << block;
      offset += extent.length_bytes;
      ++found;
    }
  }
  // Three of them are one.
  EXPECT_EQ(found, kExtents - 2);
}

// -- The limit

TEST_F(PrivateCopyTest, ATrimToTheEndOfAFullCopyMakesRoom) {
  const auto copy = Copy(4 * kBlock);
  EXPECT_EQ(Write(*copy, 0, Bytes(4 * kBlock, 'x')), 0);
  EXPECT_EQ(copy->Trim(2 * kBlock, image_.size() - 2 * kBlock), 0);
  EXPECT_EQ(Write(*copy, 2 * kBlock, Bytes(2 * kBlock, 'y')), 0);
  EXPECT_EQ(Zero(*copy, 0, image_.size()), 0);
  EXPECT_TRUE(Read(*copy, 0, image_.size()) == Bytes(image_.size(), '\0'));
  EXPECT_EQ(Write(*copy, 0, Bytes(3 * kBlock, 'z')), 0);
  EXPECT_EQ(Write(*copy, 3 * kBlock, "z"), ENOSPC);
}

TEST_F(PrivateCopyTest, AFullCopyRefusesMoreAndKeepsWhatItHas) {
  const auto copy = Copy(4 * kBlock);
  EXPECT_EQ(Write(*copy, 0, Bytes(4 * kBlock, 'x')), 0);
  EXPECT_EQ(Write(*copy, 4 * kBlock, Bytes(kBlock, 'y')), ENOSPC);
  EXPECT_EQ(Write(*copy, 4 * kBlock + 1, "y"), ENOSPC);
  EXPECT_EQ(Zero(*copy, 4 * kBlock, kBlock, Export::Hole::kForbidden), ENOSPC);
  EXPECT_EQ(Write(*copy, kBlock + 1, "z"), 0);
  Bytes model = Pattern(0, image_.size());
  model.replace(0, 4 * kBlock, Bytes(4 * kBlock, 'x'));
  model[kBlock + 1] = 'z';
  EXPECT_TRUE(Read(*copy, 0, model.size()) == model);
  EXPECT_LE(CopyOccupies(), 4 * kBlock);
}

TEST_F(PrivateCopyTest, TrimsAndZeroesGiveRoomBack) {
  const auto copy = Copy(4 * kBlock);
  EXPECT_EQ(Write(*copy, 0, Bytes(4 * kBlock, 'x')), 0);
  EXPECT_EQ(Zero(*copy, 10 * kBlock, 20 * kBlock), 0);
  EXPECT_EQ(copy->Trim(kBlock, kBlock), 0);
  EXPECT_EQ(Write(*copy, 50 * kBlock, Bytes(kBlock, 'y')), 0);
  EXPECT_EQ(Write(*copy, 51 * kBlock, Bytes(kBlock, 'y')), ENOSPC);
  EXPECT_EQ(Zero(*copy, 0, kBlock), 0);
  EXPECT_EQ(Write(*copy, 51 * kBlock, Bytes(kBlock, 'y')), 0);
  EXPECT_LE(CopyOccupies(), 4 * kBlock);
}

TEST_F(PrivateCopyTest, WritesAndTrimsAtOnceStayBelowTheLimit) {
  constexpr uint64_t kLimit = 8 * kBlock;
  const auto copy = Copy(kLimit);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 3000; ++i) {
        const uint64_t offset = (i * 7 + thread) % 64 * kBlock;
        if (thread % 2 == 0) {
          const int error = Write(*copy, offset, Bytes(kBlock, 'x'));
          EXPECT_TRUE(error == 0 || error == ENOSPC) << error;
        } else {
          EXPECT_EQ(copy->Trim(offset, kBlock), 0);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(CopyOccupies(), kLimit);
  EXPECT_EQ(copy->Trim(0, 64 * kBlock), 0);
  EXPECT_EQ(CopyOccupies(), 0u);
  EXPECT_EQ(Write(*copy, 0, Bytes(kLimit, 'x')), 0);
  EXPECT_EQ(Write(*copy, kLimit, "x"), ENOSPC);
}

// -- The file

TEST_F(PrivateCopyTest, TheFileHasNoName) {
  const auto file =
      PrivateCopy::Create({true, false, image_.directory(), kNoLimit});
  ASSERT_TRUE(file.ok()) << file.status();
  struct stat st;
  ASSERT_EQ(fstat(file->fd(), &st), 0);
  EXPECT_EQ(st.st_nlink, 0u);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_NE(fcntl(file->fd(), F_GETFD) & FD_CLOEXEC, 0);
  const std::string link = "/proc/self/fd/" + std::to_string(file->fd());
  const std::string name = image_.directory() + "/named";
  EXPECT_NE(
      linkat(AT_FDCWD, link.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW),
      0);
}

TEST_F(PrivateCopyTest, ADirectoryThatIsMissingIsNamed) {
  const auto file = PrivateCopy::Create(
      {true, false, image_.directory() + "/missing", kNoLimit});
  EXPECT_TRUE(absl::IsAlreadyExists(file.status())) << file.status();
  EXPECT_NE(file.status().message().find("/missing"), std::string::npos);
}

TEST_F(PrivateCopyTest, TheDirectoryIsThatOfTheUnit) {
  const CopySettings settings = {true, false, "", kNoLimit};
  for (const char* name : {"STATE_DIRECTORY", "RUNTIME_DIRECTORY"}) {
    unsetenv(name);
  }
  EXPECT_EQ(CopyPlace(settings), "\"/var/tmp\"");
  setenv("RUNTIME_DIRECTORY", "/run/a", 1);
  EXPECT_EQ(CopyPlace(settings), "\"/run/a\"");
  setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b", 1);
  EXPECT_EQ(CopyPlace(settings), "\"/var/lib/a\"");
  EXPECT_EQ(CopyPlace({true, false, "/given", kNoLimit}), "\"/given\"");
  EXPECT_EQ(CopyPlace({true, true, "", kNoLimit}), "memory");
  for (const char* name : {"STATE_DIRECTORY", "RUNTIME_DIRECTORY"}) {
    unsetenv(name);
  }
}

}  // namespace
}  // namespace nbdinetd
