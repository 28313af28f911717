#include "export/block_map.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/functional/function_ref.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kWordBits = 64;
constexpr uint64_t kChunkBlocks = uint64_t{4096} * 8;
constexpr uint64_t kChunkWords = kChunkBlocks / kWordBits;

using Word = std::atomic_ref<uint64_t>;

uint64_t ChunkEnd(uint64_t block) {
  return (block / kChunkBlocks + 1) * kChunkBlocks;
}

bool IsWholeChunk(uint64_t begin, uint64_t end) {
  return end - begin == kChunkBlocks;
}

// Calls `change` for each word that has blocks of [begin, end), with their bits
// in the word. Returns the sum of what it returns.
uint64_t ForWords(
    uint64_t begin, uint64_t end,
    absl::FunctionRef<uint64_t(uint64_t word, uint64_t bits)> change) {
  uint64_t sum = 0;
  while (begin < end) {
    const uint64_t first = begin % kWordBits;
    const uint64_t count = std::min(kWordBits - first, end - begin);
    sum += change(begin / kWordBits, (~uint64_t{0} >> (kWordBits - count))
                                         << first);
    begin += count;
  }
  return sum;
}

}  // namespace

std::unique_ptr<BlockMap> BlockMap::Create(uint64_t blocks) {
  const uint64_t chunks = (blocks + kChunkBlocks - 1) / kChunkBlocks;
  // Memory that nothing has touched is no memory yet.
  Words words(static_cast<uint64_t*>(
      std::calloc(std::max<uint64_t>(chunks, 1), kChunkBlocks / 8)));
  if (words == nullptr) return nullptr;
  return std::unique_ptr<BlockMap>(new BlockMap(chunks, std::move(words)));
}

BlockMap::BlockMap(uint64_t chunks, Words words)
    : chunks_(chunks), words_(std::move(words)) {}

// Equal blocks from `block` on, at least one, as one look at the map shows
// them: another look may show them set by another thread.
BlockMap::Run BlockMap::StepAt(uint64_t block) const {
  const Chunk chunk =
      chunks_[block / kChunkBlocks].load(std::memory_order_acquire);
  if (chunk != Chunk::kSome) {
    return {ChunkEnd(block) - block, chunk == Chunk::kAll};
  }
  const uint64_t first = block % kWordBits;
  const uint64_t bits =
      Word(words_[block / kWordBits]).load(std::memory_order_acquire) >> first;
  const bool set = (bits & 1) != 0;
  const uint64_t others = set ? ~bits : bits;
  const auto equal = static_cast<uint64_t>(std::countr_zero(others));
  return {std::min(equal, kWordBits - first), set};
}

BlockMap::Run BlockMap::RunAt(uint64_t begin, uint64_t end) const {
  Run run = StepAt(begin);
  while (begin + run.count < end) {
    const Run next = StepAt(begin + run.count);
    if (next.set != run.set) break;
    run.count += next.count;
  }
  run.count = std::min(run.count, end - begin);
  return run;
}

uint64_t BlockMap::Set(uint64_t begin, uint64_t end) {
  uint64_t changed = 0;
  while (begin < end) {
    const uint64_t part_end = std::min(end, ChunkEnd(begin));
    changed += SetInChunk(begin, part_end);
    begin = part_end;
  }
  return changed;
}

// Each block is counted by the thread that changes its bit, or its chunk from
// kNone to kAll: a chunk whose bits count never returns to kNone.
uint64_t BlockMap::SetInChunk(uint64_t begin, uint64_t end) {
  std::atomic<Chunk>& chunk = chunks_[begin / kChunkBlocks];
  const bool whole = IsWholeChunk(begin, end);
  Chunk seen = Chunk::kNone;
  if (chunk.compare_exchange_strong(seen, whole ? Chunk::kAll : Chunk::kSome,
                                    std::memory_order_acq_rel) &&
      whole) {
    return kChunkBlocks;
  }
  if (seen == Chunk::kAll) return 0;
  const uint64_t changed =
      ForWords(begin, end, [this](uint64_t word, uint64_t bits) {
        const uint64_t before =
            Word(words_[word]).fetch_or(bits, std::memory_order_acq_rel);
        return static_cast<uint64_t>(std::popcount(bits & ~before));
      });
  if (whole) chunk.store(Chunk::kAll, std::memory_order_release);
  return changed;
}

uint64_t BlockMap::Clear(uint64_t begin, uint64_t end) {
  uint64_t changed = 0;
  while (begin < end) {
    const uint64_t part_end = std::min(end, ChunkEnd(begin));
    changed += ClearInChunk(begin, part_end);
    begin = part_end;
  }
  return changed;
}

uint64_t BlockMap::ClearInChunk(uint64_t begin, uint64_t end) {
  const uint64_t index = begin / kChunkBlocks;
  const Chunk chunk = chunks_[index].load(std::memory_order_relaxed);
  if (chunk == Chunk::kNone) return 0;
  const bool whole = IsWholeChunk(begin, end);
  uint64_t* const words = &words_[index * kChunkWords];
  if (chunk == Chunk::kAll && !whole) {
    std::fill_n(words, kChunkWords, ~uint64_t{0});
  }
  uint64_t changed = ForWords(begin, end, [this](uint64_t word, uint64_t bits) {
    const uint64_t before = words_[word];
    // Reading untouched memory leaves it so.
    if ((before & bits) != 0) words_[word] = before & ~bits;
    return static_cast<uint64_t>(std::popcount(before & bits));
  });
  if (chunk == Chunk::kAll && whole) changed = kChunkBlocks;
  chunks_[index].store(whole ? Chunk::kNone : Chunk::kSome,
                       std::memory_order_relaxed);
  return changed;
}

}  // namespace nbdinetd
