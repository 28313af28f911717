// A map of blocks does what a model of one bit for each block says.

#include "export/block_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

namespace nbdinetd {
namespace {

// Of a page of memory.
constexpr uint64_t kChunk = uint64_t{4096} * 8;

TEST(BlockMap, AgreesWithItsModel) {
  constexpr uint64_t kBlocks = 3 * kChunk + 777;
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto map = BlockMap::Create(kBlocks);
  ASSERT_NE(map, nullptr);
  std::vector<bool> model(kBlocks);
  const auto pick = [&] {
    // Often at, or beside, the edges of words and chunks.
    const uint64_t edge = random() % 2 == 0 ? kChunk : 64;
    const uint64_t at = random() % (kBlocks / edge + 1) * edge + random() % 3;
    return std::min(random() % 3 == 0 ? random() % kBlocks : at, kBlocks);
  };
  for (int i = 0; i < 5000 && !::testing::Test::HasFailure(); ++i) {
    const uint64_t a = pick();
    const uint64_t b = pick();
    const uint64_t begin = std::min(a, b);
    const uint64_t end = std::max(a, b);
    if (begin == end) continue;
    SCOPED_TRACE(testing::Message() << i << ": " << begin << ", " << end);
    const bool value = random() % 2 == 0;
    const auto first = model.begin() + static_cast<int64_t>(begin);
    const auto last = model.begin() + static_cast<int64_t>(end);
    const auto changed = static_cast<uint64_t>(std::count(first, last, !value));
    switch (random() % 3) {
      case 0:
        std::fill(first, last, value);
        EXPECT_EQ(value ? map->Set(begin, end) : map->Clear(begin, end),
                  changed);
        break;
      default: {
        const BlockMap::Run run = map->RunAt(begin, end);
        EXPECT_EQ(run.set, *first);
        EXPECT_EQ(run.count, static_cast<uint64_t>(
                                 std::find(first, last, !*first) - first));
      }
    }
  }
  uint64_t at = 0;
  while (at < kBlocks) {
    const BlockMap::Run run = map->RunAt(at, kBlocks);
    ASSERT_GE(run.count, 1u);
    for (uint64_t i = at; i < at + run.count; ++i) {
      ASSERT_EQ(model[i], run.set) << i;
    }
    at += run.count;
  }
}

TEST(BlockMap, EachBlockIsCountedOnce) {
  constexpr uint64_t kBlocks = 4 * kChunk;
  constexpr int kThreads = 4;
  for (int round = 0; round < 20; ++round) {
    const auto map = BlockMap::Create(kBlocks);
    ASSERT_NE(map, nullptr);
    std::vector<uint64_t> counts(kThreads);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937_64 random(static_cast<unsigned>(100 * round + thread));
        for (int i = 0; i < 200; ++i) {
          const bool whole = random() % 4 == 0;
          const uint64_t begin =
              whole ? random() % 4 * kChunk : random() % (kBlocks - 5000);
          counts[static_cast<size_t>(thread)] +=
              map->Set(begin, begin + (whole ? kChunk : random() % 5000 + 1));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    uint64_t counted = 0;
    for (const uint64_t count : counts) counted += count;
    uint64_t set = 0;
    for (uint64_t at = 0; at < kBlocks;) {
      const BlockMap::Run run = map->RunAt(at, kBlocks);
      if (run.set) set += run.count;
      at += run.count;
    }
    EXPECT_EQ(counted, set);
  }
}

// Blocks that are set while one looks make a run shorter, and never empty.
TEST(BlockMap, ARunIsNeverEmpty) {
  constexpr uint64_t kBlocks = 2 * kChunk;
  for (int round = 0; round < 200; ++round) {
    const auto map = BlockMap::Create(kBlocks);
    ASSERT_NE(map, nullptr);
    std::atomic<bool> is_done = false;
    std::thread setter([&] {
      std::mt19937_64 random(static_cast<unsigned>(round));
      for (int i = 0; i < 300; ++i) {
        const uint64_t begin = random() % 200;
        map->Set(begin, begin + 1);
      }
      map->Set(0, kChunk);
      is_done = true;
    });
    uint64_t begin = 0;
    while (!is_done) {
      begin = (begin + 1) % 200;
      const BlockMap::Run run = map->RunAt(begin, kBlocks);
      ASSERT_GE(run.count, 1u);
      ASSERT_LE(run.count, kBlocks - begin);
    }
    setter.join();
  }
}

TEST(BlockMap, NoBlocksAreAMapToo) { EXPECT_NE(BlockMap::Create(0), nullptr); }

// What is all set, or all unset, isn't looked at block by block: this would
// take minutes.
TEST(BlockMap, ALargeRunIsFoundAtOnce) {
  constexpr uint64_t kBlocks = uint64_t{1} << 32;
  const auto map = BlockMap::Create(kBlocks);
  ASSERT_NE(map, nullptr);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(map->RunAt(0, kBlocks).count, kBlocks);
  }
  EXPECT_EQ(map->Set(0, kBlocks), kBlocks);
  EXPECT_EQ(map->Set(0, kBlocks), 0u);
  EXPECT_TRUE(map->RunAt(0, kBlocks).set);
  EXPECT_EQ(map->Clear(kBlocks / 2, kBlocks / 2 + 1), 1u);
  EXPECT_EQ(map->RunAt(0, kBlocks).count, kBlocks / 2);
  EXPECT_EQ(map->RunAt(kBlocks / 2, kBlocks).count, 1u);
}

}  // namespace
}  // namespace nbdinetd
