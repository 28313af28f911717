// Tasks, carried out on files: what comes back in them.

#include "transmission/task.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "export/open.h"
#include "support/extent.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/wire.h"

namespace nbdinetd {

namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;

// A multiple of any block size that is to be expected, also that of a hole.
constexpr uint64_t kBlock = 64 << 10;
constexpr uint64_t kSize = 32 * kBlock;

// On a disk file system, and in memory.
class TaskTest : public testing::TestWithParam<bool> {
 protected:
  TaskTest() {
    if (GetParam()) {
      path_ = directory_.path() + "/image";
      fd_.Reset(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    } else {
      fd_.Reset(memfd_create("image", MFD_CLOEXEC));
      path_ = "/proc/self/fd/" + std::to_string(fd_.get());
    }
    Truncate(kSize);
  }

  void Put(uint64_t offset, const Bytes& bytes) {
    ASSERT_EQ(pwrite(fd_.get(), bytes.data(), bytes.size(),
                     static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }
  Bytes Get(uint64_t offset, size_t size) {
    Bytes bytes(size, '#');
    const ssize_t n =
        pread(fd_.get(), bytes.data(), size, static_cast<off_t>(offset));
    bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return bytes;
  }
  void Truncate(uint64_t size) {
    ASSERT_EQ(ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
  }
  uint64_t AllocatedBytes() {
    fsync(fd_.get());
    struct stat st;
    return fstat(fd_.get(), &st) == 0
               ? static_cast<uint64_t>(st.st_blocks) * 512
               : 0;
  }
  // Data in even blocks, holes in odd ones.
  void PutStripes(uint64_t stripe = kBlock) {
    for (uint64_t at = 0; at < kSize; at += 2 * stripe)
      Put(at, Pattern(at, stripe));
  }
  Bytes Stripes(uint64_t offset, size_t size, uint64_t stripe = kBlock) {
    Bytes bytes = Pattern(offset, size);
    for (size_t i = 0; i < size; ++i) {
      if ((offset + i) / stripe % 2 == 1) bytes[i] = '\0';
    }
    return bytes;
  }

  // The file as an export, opened at the first use.
  Export& target() {
    if (target_ == nullptr) {
      std::string reason;
      auto opened = OpenExport(path_, {}, &reason);
      if (opened.ok()) target_ = *std::move(opened);
    }
    return *target_;
  }

  Task Run(uint16_t type, uint64_t offset, uint64_t length,
           uint16_t flags = 0) {
    Task task(pool_);
    task.request.type = type;
    task.request.flags = flags;
    task.request.offset = offset;
    task.request.length = length;
    RunTask(target(), task);
    return task;
  }
  Task Write(uint64_t offset, const Bytes& bytes, uint16_t flags = 0) {
    Task task(pool_);
    task.request.type = NBD_CMD_WRITE;
    task.request.flags = flags;
    task.request.offset = offset;
    task.request.length = bytes.size();
    task.carries_payload = true;
    task.data = pool_.Take(bytes.size());
    bytes.copy(task.data.get(), bytes.size());
    RunTask(target(), task);
    return task;
  }

  static Bytes DataOf(const Task& task) {
    return task.data == nullptr ? "no data"
                                : Bytes(task.data.get(), task.request.length);
  }
  static uint64_t Sum(const Extents& extents) {
    uint64_t sum = 0;
    for (const Extent& extent : extents) sum += extent.length_bytes;
    return sum;
  }

  BufferPool pool_;

 private:
  nbdtest::TempDir directory_;
  std::string path_;
  UniqueFd fd_;
  std::unique_ptr<Export> target_;
};

INSTANTIATE_TEST_SUITE_P(On, TaskTest, testing::Bool(),
                         [](const auto& on_disk) {
                           return on_disk.param ? "Disk" : "Memory";
                         });

// -- Reads

TEST_P(TaskTest, AShortReadBringsItsBytes) {
  Put(0, Pattern(0, kSize));
  for (const uint64_t offset :
       {uint64_t{0}, uint64_t{517}, kSize - kPieceBytes}) {
    for (const size_t length :
         {size_t{1}, size_t{4096}, size_t{5000}, kPieceBytes}) {
      const Task task = Run(NBD_CMD_READ, offset, length);
      EXPECT_EQ(task.error, 0);
      EXPECT_TRUE(DataOf(task) == Pattern(offset, length))
          << offset << ", " << length;
      EXPECT_TRUE(task.extents.empty());
    }
  }
}

TEST_P(TaskTest, AShortReadHasTheZeroesOfHoles) {
  PutStripes();
  for (const auto& [offset, length] :
       {std::pair<uint64_t, size_t>{0, kPieceBytes},
        {kBlock, kBlock},
        {kBlock - 100, 200},
        {517, 3 * kBlock},
        {kSize - 1, 1}}) {
    const Task task = Run(NBD_CMD_READ, offset, length);
    EXPECT_EQ(task.error, 0);
    EXPECT_TRUE(DataOf(task) == Stripes(offset, length))
        << offset << ", " << length;
  }
}

TEST_P(TaskTest, ALongReadCarriesNoBytesWhateverItsLength) {
  PutStripes();
  for (const uint64_t length : {uint64_t{kPieceBytes} + 1, kSize}) {
    const Task task = Run(NBD_CMD_READ, 0, length);
    EXPECT_EQ(task.error, 0);
    EXPECT_EQ(task.data, nullptr);
    EXPECT_EQ(task.memory_bytes(), kPieceBytes);
  }
}

TEST_P(TaskTest, AfterALongReadItsDataIsInThePageCache) {
  Put(0, Pattern(0, kSize));
  Run(NBD_CMD_READ, 0, kSize);
  Bytes bytes(kPieceBytes, '#');
  for (uint64_t at = 0; at < kSize; at += kPieceBytes) {
    ASSERT_EQ(
        target().ReadCached(at, absl::MakeSpan(bytes.data(), kPieceBytes)),
        kPieceBytes);
    EXPECT_TRUE(bytes == Pattern(at, kPieceBytes));
  }
}

TEST_P(TaskTest, AReadBeyondATruncationTellsWhereItStopped) {
  Put(0, Pattern(0, kSize));
  target();
  Truncate(4 * kBlock + 100);
  struct Row {
    uint64_t offset, length, error_offset;
  };
  for (const Row& row :
       {Row{0, kSize, 4 * kBlock + 100}, Row{4 * kBlock, 512, 4 * kBlock + 100},
        Row{4 * kBlock + 99, 2, 4 * kBlock + 100},
        Row{4 * kBlock + 100, 1, 4 * kBlock + 100},
        Row{8 * kBlock, 4096, 8 * kBlock}, Row{kSize - 1, 1, kSize - 1}}) {
    const Task task = Run(NBD_CMD_READ, row.offset, row.length);
    EXPECT_EQ(task.error, StorageError::Truncated()) << row.offset;
    EXPECT_EQ(task.error_offset, row.error_offset)
        << row.offset << ", " << row.length;
  }
  EXPECT_EQ(Run(NBD_CMD_READ, 0, 4 * kBlock).error, 0);
}

// The same with holes: where a file ends must not look like one.
TEST_P(TaskTest, AReadBeyondATruncationOfASparseFileFailsToo) {
  PutStripes();
  target();
  Truncate(kBlock + 512);
  const Task task = Run(NBD_CMD_READ, 0, 4 * kBlock);
  EXPECT_EQ(task.error, StorageError::Truncated());
  EXPECT_EQ(task.error_offset, kBlock + 512);
  EXPECT_EQ(Run(NBD_CMD_READ, 0, kBlock + 512).error, 0);
}

// -- Writes

TEST_P(TaskTest, AWriteWritesItsPayload) {
  Put(0, Pattern(0, kSize));
  Bytes wanted = Pattern(0, kSize);
  for (const uint16_t flags : {uint16_t{0}, nbdtest::kCmdFlagFua}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{517}, kSize - 5000}) {
      const Bytes bytes = Pattern(offset, 5000, /*seed=*/2 + flags);
      EXPECT_EQ(Write(offset, bytes, flags).error, 0);
      wanted.replace(offset, bytes.size(), bytes);
    }
  }
  EXPECT_TRUE(Get(0, kSize + 1) == wanted);
}

TEST_P(TaskTest, AWriteWithoutPayloadOnlyBecomesDurable) {
  Put(0, Pattern(0, kSize));
  for (const uint16_t flags : {uint16_t{0}, nbdtest::kCmdFlagFua}) {
    EXPECT_EQ(Run(NBD_CMD_WRITE, 0, kSize, flags).error, 0);
    EXPECT_EQ(Run(NBD_CMD_WRITE, 0, 0, flags).error, 0);
  }
  EXPECT_TRUE(Get(0, kSize + 1) == Pattern(0, kSize));
}

TEST_P(TaskTest, WhatItCarriesIsCounted) {
  Task task(pool_);
  task.request.length = 1000;
  task.request.type = NBD_CMD_READ;
  EXPECT_EQ(task.memory_bytes(), BufferPool::SizeFor(1000));
  task.request.length = kPieceBytes;
  EXPECT_EQ(task.memory_bytes(), kPieceBytes);
  // A piece to read through, whatever the length.
  task.request.length = 32 << 20;
  EXPECT_EQ(task.memory_bytes(), kPieceBytes);
  task.request.length = 1000;
  for (const uint16_t type : {NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_FLUSH,
                              NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES}) {
    task.request.type = type;
    EXPECT_EQ(task.memory_bytes(), 0u) << type;
  }
  task.request.type = NBD_CMD_BLOCK_STATUS;
  EXPECT_EQ(task.memory_bytes(),
            BufferPool::SizeFor((kMaxDescriptors + 1) * sizeof(Extent)));
  task.request.flags = NBD_CMD_FLAG_REQ_ONE;
  EXPECT_EQ(task.memory_bytes(), BufferPool::SizeFor(1));
  task.request.flags = 0;
  task.request.type = NBD_CMD_WRITE;
  task.carries_payload = true;
  EXPECT_EQ(task.memory_bytes(), BufferPool::SizeFor(1000));
}

// -- Trim, zeroes, cache

TEST_P(TaskTest, ATrimGivesStorageBack) {
  Put(0, Pattern(0, kSize));
  const uint64_t before = AllocatedBytes();
  for (const uint16_t flags : {uint16_t{0}, nbdtest::kCmdFlagFua}) {
    EXPECT_EQ(Run(NBD_CMD_TRIM, 0, kSize / 2, flags).error, 0);
  }
  EXPECT_LT(AllocatedBytes(), before);
  EXPECT_TRUE(Get(kSize / 2, kSize / 2 + 1) == Pattern(kSize / 2, kSize / 2));
}

TEST_P(TaskTest, WriteZeroesTakesItsFlags) {
  for (const uint16_t fua : {uint16_t{0}, nbdtest::kCmdFlagFua}) {
    for (const uint16_t fast : {uint16_t{0}, nbdtest::kCmdFlagFastZero}) {
      for (const uint16_t no_hole : {uint16_t{0}, nbdtest::kCmdFlagNoHole}) {
        Put(0, Pattern(0, kSize));
        const auto flags = static_cast<uint16_t>(fua | fast | no_hole);
        EXPECT_EQ(
            Run(NBD_CMD_WRITE_ZEROES, kBlock, kSize - kBlock, flags).error, 0);
        EXPECT_TRUE(Get(0, kSize + 1) ==
                    Pattern(0, kBlock) + Bytes(kSize - kBlock, '\0'));
        EXPECT_EQ(AllocatedBytes() >= kSize, no_hole != 0) << flags;
      }
    }
  }
}

TEST_P(TaskTest, ACacheRequestChangesNothing) {
  Put(0, Pattern(0, kSize));
  EXPECT_EQ(Run(NBD_CMD_CACHE, 0, kSize).error, 0);
  EXPECT_EQ(Run(NBD_CMD_CACHE, 517, 0).error, 0);
  EXPECT_EQ(Run(NBD_CMD_CACHE, kSize, 0).error, 0);
  EXPECT_TRUE(Get(0, kSize + 1) == Pattern(0, kSize));
}

TEST_P(TaskTest, EmptyRequestsSucceedAndChangeNothing) {
  Put(0, Pattern(0, kSize));
  for (const uint16_t type :
       {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_CACHE, NBD_CMD_FLUSH}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{517}, kSize}) {
      if (type == NBD_CMD_FLUSH && offset != 0) continue;
      EXPECT_EQ(Run(type, offset, 0).error, 0) << type << " at " << offset;
      EXPECT_EQ(Run(type, offset, 0, nbdtest::kCmdFlagFua).error, 0)
          << type << " at " << offset;
    }
  }
  EXPECT_EQ(Run(NBD_CMD_WRITE_ZEROES, 0, 0, nbdtest::kCmdFlagFastZero).error,
            0);
  EXPECT_TRUE(Get(0, kSize + 1) == Pattern(0, kSize));
}

// -- Block status

TEST_P(TaskTest, ABlockStatusHasTheExtentsAndTheLastMayReachFurther) {
  PutStripes();
  EXPECT_EQ(Run(NBD_CMD_BLOCK_STATUS, 0, kBlock + 1).extents,
            (Extents{{kBlock, false}, {kBlock, true}}));
  EXPECT_EQ(Run(NBD_CMD_BLOCK_STATUS, kBlock + 100, 1).extents,
            (Extents{{kBlock - 100, true}}));
  EXPECT_EQ(Sum(Run(NBD_CMD_BLOCK_STATUS, 0, kSize).extents), kSize);
}

TEST_P(TaskTest, ABlockStatusOfOneExtentHasOne) {
  PutStripes();
  EXPECT_EQ(
      Run(NBD_CMD_BLOCK_STATUS, 0, kSize, nbdtest::kCmdFlagReqOne).extents,
      (Extents{{kBlock, false}}));
  EXPECT_EQ(
      Run(NBD_CMD_BLOCK_STATUS, kBlock, kSize - kBlock, nbdtest::kCmdFlagReqOne)
          .extents,
      (Extents{{kBlock, true}}));
}

TEST_P(TaskTest, ABlockStatusHasALimit) {
  constexpr uint64_t kStripe = 4096;
  constexpr uint64_t kStripes = 2 * kMaxDescriptors;
  Truncate(0);
  Truncate(kStripes * kStripe);
  for (uint64_t i = 0; i < kStripes; i += 2) Put(i * kStripe, "x");
  const Task task = Run(NBD_CMD_BLOCK_STATUS, 0, kStripes * kStripe);
  EXPECT_EQ(task.error, 0);
  EXPECT_LE(task.extents.size(), kMaxDescriptors);
  EXPECT_GE(task.extents.size(), 1u);
}

TEST_P(TaskTest, ABlockStatusThatIsCutShortHasAnExtent) {
  PutStripes();
  const std::atomic<bool> cut_short = true;
  Task task(pool_);
  task.cut_short = &cut_short;
  task.request.type = NBD_CMD_BLOCK_STATUS;
  task.request.length = kSize;
  RunTask(target(), task);
  EXPECT_EQ(task.error, 0);
  EXPECT_EQ(task.extents, (Extents{{kBlock, false}}));
}

// -- What the storage says

BufferPool pool;

// A storage in which nothing works.
class BrokenExport : public nbdtest::FakeExport {
 public:
  BrokenExport() : FakeExport({.size_bytes = kSize}) {}
  int Trim(uint64_t, uint64_t) override { return EIO; }
  int Zero(uint64_t, uint64_t, Hole, Speed, const std::atomic<bool>*) override {
    return ENOSPC;
  }
};

TEST(TaskError, IsTheOneThatTheStorageGave) {
  struct Row {
    uint16_t type;
    int error;
  };
  // It has no descriptor, so that all the rest is EBADF.
  for (const Row& row :
       {Row{NBD_CMD_READ, EBADF}, Row{NBD_CMD_WRITE, EBADF},
        Row{NBD_CMD_FLUSH, EBADF}, Row{NBD_CMD_TRIM, EIO},
        Row{NBD_CMD_WRITE_ZEROES,
            ENOSPC},  // What can't be asked for its holes is all data.
        Row{NBD_CMD_BLOCK_STATUS, 0}, Row{NBD_CMD_CACHE, EBADF}}) {
    for (const uint16_t flags : {uint16_t{0}, nbdtest::kCmdFlagFua}) {
      BrokenExport target;
      Task task(pool);
      task.request.type = row.type;
      task.request.flags = flags;
      task.request.offset = 512;
      task.request.length = 512;
      task.carries_payload = row.type == NBD_CMD_WRITE;
      if (task.carries_payload) task.data = pool.Take(512);
      RunTask(target, task);
      EXPECT_EQ(task.error, row.error) << row.type;
      EXPECT_EQ(task.error_offset, 512u) << row.type;
    }
  }
}

TEST(TaskError, OfAFlushMakesAForceUnitAccessFail) {
  class Unflushable : public nbdtest::FakeExport {
   public:
    Unflushable() : FakeExport({.size_bytes = kSize}) {}
  };
  for (const uint16_t type :
       {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_WRITE}) {
    Unflushable target;
    Task task(pool);
    task.request.type = type;
    task.request.length = 512;
    RunTask(target, task);
    EXPECT_EQ(task.error, 0) << type;
    task.request.flags = nbdtest::kCmdFlagFua;
    RunTask(target, task);
    EXPECT_EQ(task.error, EBADF) << type;
  }
}

TEST(TaskError, OfAnUnknownCommandIsEinval) {
  BrokenExport target;
  Task task(pool);
  for (const uint16_t type :
       {uint16_t{NBD_CMD_DISC}, uint16_t{8}, uint16_t{65535}}) {
    task.request.type = type;
    RunTask(target, task);
    EXPECT_EQ(task.error, EINVAL) << type;
  }
}

// -- Pieces

// Notes the ranges of trims and zeroings, and fails at one of them.
class NotingExport : public nbdtest::FakeExport {
 public:
  struct Call {
    uint64_t offset;
    uint64_t length;
    Hole hole;
    Speed speed;
  };

  NotingExport() : FakeExport({.size_bytes = UINT64_MAX / 2}) {}
  int Trim(uint64_t offset, uint64_t length) override {
    return Zero(offset, length, Hole::kAllowed, Speed::kAny, nullptr);
  }
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>*) override {
    calls.push_back({offset, length, hole, speed});
    if (on_call != nullptr) on_call();
    return calls.size() == failing_call ? error : 0;
  }

  std::vector<Call> calls;
  size_t failing_call = 0;  // counted from 1
  int error = EIO;
  std::function<void()> on_call;
};

Task InPieces(NotingExport& target, uint64_t offset, uint64_t length,
              uint16_t type = NBD_CMD_TRIM, uint16_t flags = 0) {
  Task task(pool);
  task.request.type = type;
  task.request.flags = flags;
  task.request.offset = offset;
  task.request.length = length;
  RunTask(target, task);
  return task;
}

TEST(Pieces, CoverTheRequestInOrderAndEndAtTheirMultiples) {
  constexpr uint64_t kHuge = uint64_t{16} << 40;
  constexpr uint64_t kMost = kTaskPieceBytes * kMaxTaskPieces;
  struct Row {
    uint64_t length;
    uint64_t piece;
  };
  for (const auto& [length, piece] :
       {Row{0, kTaskPieceBytes}, Row{1, kTaskPieceBytes},
        Row{kTaskPieceBytes, kTaskPieceBytes},
        Row{kTaskPieceBytes + 1, kTaskPieceBytes},
        Row{3 * kTaskPieceBytes - 5, kTaskPieceBytes},
        Row{uint64_t{0xffffffff}, kTaskPieceBytes}, Row{kHuge, kTaskPieceBytes},
        Row{kMost - 1, kTaskPieceBytes}, Row{kMost, 2 * kTaskPieceBytes},
        Row{3 * kMost - 1, 3 * kTaskPieceBytes}}) {
    for (const uint64_t offset :
         {uint64_t{0}, uint64_t{1}, piece - 1, piece, kHuge - 4096}) {
      for (const uint16_t type : {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES}) {
        NotingExport target;
        const Task task = InPieces(target, offset, length, type);
        EXPECT_EQ(task.error, 0);
        EXPECT_FALSE(task.was_cut_short);
        const uint64_t end = offset + length;
        uint64_t at = offset;
        for (const NotingExport::Call& call : target.calls) {
          ASSERT_EQ(call.offset, at);
          const bool is_first = at == offset;
          at += call.length;
          if (at == end) break;
          ASSERT_EQ(at % piece, 0u);
          ASSERT_GE(call.length, piece);
          ASSERT_LT(call.length, is_first ? 2 * piece : piece + 1);
        }
        EXPECT_EQ(at, end);
        const uint64_t first_end = (offset + 2 * piece - 1) / piece * piece;
        EXPECT_EQ(
            target.calls.size(),
            1 + (end <= first_end ? 0 : (end - first_end + piece - 1) / piece))
            << length << " at " << offset;
      }
    }
  }
}

TEST(Pieces, EndWithTheFirstThatFails) {
  for (const uint16_t type : {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES}) {
    NotingExport target;
    target.failing_call = 3;
    const Task task =
        InPieces(target, 512, uint64_t{16} << 40, type, nbdtest::kCmdFlagFua);
    EXPECT_EQ(task.error, EIO);
    EXPECT_EQ(target.calls.size(), 3u);
    EXPECT_EQ(task.error_offset, target.calls[2].offset);
    EXPECT_GT(task.error_offset, 512u);
  }
}

// It has the offset of the request, and not that of the last piece.
TEST(Pieces, AreFollowedByTheErrorOfTheFlush) {
  NotingExport target;  // without a descriptor
  const Task task = InPieces(target, 512, 3 * kTaskPieceBytes, NBD_CMD_TRIM,
                             nbdtest::kCmdFlagFua);
  EXPECT_EQ(target.calls.size(), 3u);
  EXPECT_EQ(task.error, EBADF);
  EXPECT_EQ(task.error_offset, 512u);
}

// NBD_ENOTSUP "SHOULD NOT" come after something has changed.
TEST(Pieces, SayOnlyOfTheFirstOneThatItIsNotFast) {
  for (const size_t failing : {1, 2}) {
    NotingExport target;
    target.failing_call = failing;
    target.error = EOPNOTSUPP;
    const Task task = InPieces(target, 0, 4 * kTaskPieceBytes,
                               NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO);
    EXPECT_EQ(task.error, failing == 1 ? EOPNOTSUPP : EIO);
    EXPECT_EQ(target.calls.size(), failing);
  }
}

TEST(Pieces, AreFastOnlyOrNotAsTheFirstOneWas) {
  NotingExport target;
  InPieces(target, 0, 4 * kTaskPieceBytes, NBD_CMD_WRITE_ZEROES,
           nbdtest::kCmdFlagFastZero | nbdtest::kCmdFlagNoHole);
  ASSERT_EQ(target.calls.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(target.calls[i].hole, Export::Hole::kForbidden) << i;
    EXPECT_EQ(target.calls[i].speed,
              i == 0 ? Export::Speed::kFastOnly : Export::Speed::kAny)
        << i;
  }
}

TEST(Pieces, EndEarlyWhenTheyAreCutShort) {
  for (const uint16_t type : {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES}) {
    NotingExport target;
    std::atomic<bool> cut_short = false;
    Task task(pool);
    task.cut_short = &cut_short;
    task.request.type = type;
    task.request.flags = nbdtest::kCmdFlagFua;  // fails here
    task.request.length = uint64_t{16} << 40;
    target.on_call = [&] { cut_short = target.calls.size() == 5; };
    RunTask(target, task);
    EXPECT_EQ(task.error, 0);
    EXPECT_TRUE(task.was_cut_short);
    EXPECT_EQ(target.calls.size(), 5u);
    // Nothing of one that hasn't begun, however short it is.
    for (const uint64_t length : {kTaskPieceBytes, uint64_t{512}}) {
      Task late(pool);
      late.cut_short = &cut_short;
      late.request.type = type;
      late.request.length = length;
      RunTask(target, late);
      EXPECT_EQ(late.error, 0);
      EXPECT_TRUE(late.was_cut_short);
    }
    EXPECT_EQ(target.calls.size(), 5u);
  }
}

// A piece that writes zeroes takes as long as the storage needs.
TEST(Pieces, EndEarlyWhenOneIsCutShort) {
  NotingExport target;
  target.failing_call = 3;
  target.error = ECANCELED;
  const Task task =
      InPieces(target, 0, 8 * kTaskPieceBytes, NBD_CMD_WRITE_ZEROES);
  EXPECT_EQ(task.error, 0);
  EXPECT_TRUE(task.was_cut_short);
  EXPECT_EQ(target.calls.size(), 3u);
}

}  // namespace
}  // namespace nbdinetd
