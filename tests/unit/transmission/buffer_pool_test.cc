#include "transmission/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace nbdinetd {
namespace {

using Buffer = BufferPool::Buffer;

TEST(BufferPool, GivesAsMuchAsIsAskedForRoundedUp) {
  for (const auto& [bytes, size] : {std::pair<size_t, size_t>{1, 4096},
                                    {4096, 4096},
                                    {4097, 8192},
                                    {100'000, 131'072},
                                    {kPieceBytes, kPieceBytes},
                                    {kMaxTaskBytes - 1, kMaxTaskBytes},
                                    {kMaxTaskBytes + 1, 2 * kMaxTaskBytes}}) {
    BufferPool pool;
    const Buffer buffer = pool.Take(bytes);
    ASSERT_NE(buffer, nullptr);
    std::memset(buffer.get(), 'x', size);
    EXPECT_EQ(pool.size_bytes(), size);
    EXPECT_EQ(BufferPool::SizeFor(bytes), size);
  }
}

// More than a piece, and less than a huge page: several are mapped at once.
TEST(BufferPool, BuffersOfAHugePageAreApart) {
  BufferPool pool;
  std::vector<Buffer> buffers;
  for (int i = 0; i < 8; ++i) {
    buffers.push_back(pool.Take(2 * kPieceBytes));
    ASSERT_NE(buffers.back(), nullptr);
    std::memset(buffers.back().get(), i, 2 * kPieceBytes);
  }
  EXPECT_EQ(pool.size_bytes(), 16 * kPieceBytes);
  for (int i = 0; i < 8; ++i) {
    for (size_t at = 0; at < 2 * kPieceBytes; at += 512) {
      ASSERT_EQ(buffers[static_cast<size_t>(i)][at], i);
    }
  }
  buffers.clear();
  pool.Trim();
  EXPECT_EQ(pool.size_bytes(), size_t{2 << 20});
}

TEST(BufferPool, WhatIsGivenBackServesTheNext) {
  BufferPool pool;
  std::set<const char*> seen;
  for (int i = 0; i < 100; ++i) {
    const Buffer buffer = pool.Take(kPieceBytes);
    seen.insert(buffer.get());
  }
  EXPECT_EQ(seen.size(), 1u);
  EXPECT_EQ(pool.size_bytes(), kPieceBytes);
}

// A mapping is zeroed page by page when it is first used.
TEST(BufferPool, ReadsOfMoreThanAPieceUseTheSameMemory) {
  BufferPool pool;
  std::memset(pool.Take(1 << 20).get(), 'x', 1 << 20);
  EXPECT_EQ(pool.Take(1 << 20).get()[0], 'x');
}

TEST(BufferPool, WhatIsLongerThanAllTasksIsNotKept) {
  BufferPool pool;
  EXPECT_NE(pool.Take(2 * kMaxTaskBytes), nullptr);
  EXPECT_EQ(pool.size_bytes(), 0u);
}

// Buffers of one size must not keep those of another from their share.
TEST(BufferPool, NeverHoldsMoreThanTasksMayWhateverWasTakenBefore) {
  BufferPool pool;
  for (const size_t bytes : {kPieceBytes, size_t{4096}, size_t{65536},
                             kMaxTaskBytes, size_t{1} << 20, kPieceBytes / 2}) {
    std::vector<Buffer> buffers;
    for (size_t taken = 0; taken < kMaxTaskBytes; taken += bytes) {
      buffers.push_back(pool.Take(bytes));
      ASSERT_NE(buffers.back(), nullptr);
      ASSERT_LE(pool.size_bytes(), kMaxTaskBytes);
    }
    EXPECT_EQ(pool.size_bytes(), kMaxTaskBytes);
  }
  EXPECT_EQ(pool.size_bytes(), kMaxTaskBytes);
}

TEST(BufferPool, WhatGoesBeyondTheBoundIsNotKept) {
  BufferPool pool;
  {
    std::vector<Buffer> buffers;
    for (size_t taken = 0; taken <= kMaxTaskBytes; taken += kPieceBytes) {
      buffers.push_back(pool.Take(kPieceBytes));
    }
    EXPECT_EQ(pool.size_bytes(), kMaxTaskBytes + kPieceBytes);
  }
  EXPECT_EQ(pool.size_bytes(), kMaxTaskBytes);
}

TEST(BufferPool, AnIdleOneKeepsLittle) {
  BufferPool pool;
  {
    std::vector<Buffer> buffers;
    for (size_t taken = 0; taken < kMaxTaskBytes; taken += kPieceBytes) {
      buffers.push_back(pool.Take(kPieceBytes));
    }
    pool.Trim();
    EXPECT_EQ(pool.size_bytes(), kMaxTaskBytes);
  }
  pool.Trim();
  EXPECT_EQ(pool.size_bytes(), size_t{2 << 20});
}

TEST(BufferPool, IsTheMemoryOfAVectorThatGrowsAndIsGivenBack) {
  BufferPool pool;
  {
    std::pmr::vector<uint64_t> numbers(&pool);
    for (uint64_t i = 0; i < 100'000; ++i) numbers.push_back(i);
    EXPECT_EQ(numbers.back(), 99'999u);
    EXPECT_GE(pool.size_bytes(), numbers.size() * sizeof(uint64_t));
  }
  // The vector has doubled its memory up to a MiB; the last two sizes are in
  // huge pages.
  EXPECT_LE(pool.size_bytes(), size_t{5 << 20});
}

TEST(BufferPool, IsForAllThreads) {
  BufferPool pool;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&pool, i] {
      for (size_t round = 0; round < 2000; ++round) {
        const size_t bytes = size_t{4096}
                             << (round + static_cast<size_t>(i)) % 9;
        const Buffer buffer = pool.Take(bytes);
        std::memset(buffer.get(), i, bytes);
        for (size_t at = 0; at < bytes; at += 512) ASSERT_EQ(buffer[at], i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(pool.size_bytes(), kMaxTaskBytes);
}

}  // namespace
}  // namespace nbdinetd
