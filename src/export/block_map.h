// One bit for each block of an export.
//
// A chunk is the blocks whose bits fill a page of memory. Bits of a chunk of
// which nothing has been set, or all at once, aren't stored: a map costs
// address space, and memory only elsewhere. Finding the end of a run of equal
// blocks skips such chunks. Threads: any, except where a function says
// otherwise.
#ifndef NBDINETD_EXPORT_BLOCK_MAP_H_
#define NBDINETD_EXPORT_BLOCK_MAP_H_

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace nbdinetd {

class BlockMap {
 public:
  // For `blocks` blocks, all unset. nullptr: there is no memory for the map,
  // which is at most a bit for each block, and a byte for each chunk.
  static std::unique_ptr<BlockMap> Create(uint64_t blocks);

  // All blocks of [begin, begin + count) are set, or none is.
  struct Run {
    uint64_t count;
    bool set;
  };
  // The run at the start of [begin, end), which isn't empty. It has at least
  // one block; with others that set blocks meanwhile, it may be shorter than it
  // is in the end.
  Run RunAt(uint64_t begin, uint64_t end) const;
  bool Has(uint64_t block) const { return RunAt(block, block + 1).set; }

  // Sets the blocks of [begin, end), and returns how many weren't set. What a
  // thread has done before is visible to those that find the blocks set.
  uint64_t Set(uint64_t begin, uint64_t end);
  // Clears the blocks of [begin, end), and returns how many were set. No other
  // function may run at the same time.
  uint64_t Clear(uint64_t begin, uint64_t end);

 private:
  struct Free {
    void operator()(uint64_t* words) const { std::free(words); }
  };
  using Words = std::unique_ptr<uint64_t[], Free>;
  // kNone: all stored bits are 0. kAll: what the stored bits are means nothing.
  enum class Chunk : uint8_t { kNone, kSome, kAll };

  BlockMap(uint64_t chunks, Words words);

  Run StepAt(uint64_t block) const;
  uint64_t SetInChunk(uint64_t begin, uint64_t end);
  uint64_t ClearInChunk(uint64_t begin, uint64_t end);

  std::vector<std::atomic<Chunk>> chunks_;
  const Words words_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_BLOCK_MAP_H_
