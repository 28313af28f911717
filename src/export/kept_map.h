// Which blocks a kept copy has, in its file: two maps of one bit for each
// block.
//
// - The live map follows every write: a bit is written after the data of its
//   block, and before anybody else sees the block as copied. Both are in the
//   page cache, which survives the end of the process, however it ends.
// - The durable map follows flushes: a bit is written after the data of its
//   block is on stable storage. It survives the loss of power, which may keep
//   any of what hasn't been flushed, and lose the rest.
//
// Open() believes the live map if the machine hasn't been restarted since, and
// the durable map otherwise. Bits only become 1: any mixture of the old and the
// new bytes of a map is therefore a valid one, and no write of it is torn. Bits
// that can't be written become 0 again before anybody has seen them.
//
// Why threads don't harm each other:
//
// - Add() changes bits and writes them with mutex_ held. Two threads that
//   change the same byte therefore write it in the order of their changes, and
//   the last one has both bits.
// - Flush() first takes what is in the live map (a snapshot), with mutex_ held.
//   The data of each such block had been written before its bit was set, and
//   so the fdatasync() that follows makes it durable. Blocks that Add() adds
//   meanwhile are in no snapshot, and don't get into the durable map before the
//   next Flush().
// - flush_ is held from the snapshot until the durable map is on stable
//   storage. A second Flush() therefore can't return while bits of the first
//   are still under way: their writes may be among those that it answers for.
//   Without new bits it only waits for that, and its own sync needs no lock.
// - A failed Flush() puts its pages back, and the next one writes them again.
//   AreDurable() says no until one has succeeded.
//
// Threads: any, except for Open().
#ifndef NBDINETD_EXPORT_KEPT_MAP_H_
#define NBDINETD_EXPORT_KEPT_MAP_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/functional/function_ref.h"

namespace nbdinetd {

class KeptMap {
 public:
  // Where the maps are: in `fd`, which is borrowed.
  struct Place {
    int fd;
    uint64_t live_map;  // offsets in bytes, multiples of 4096
    uint64_t durable_map;
    uint64_t blocks;
  };
  enum class Believe { kLive, kDurable };

  // Reads the maps. With kDurable, the live map becomes the durable one first,
  // and is on stable storage before this returns: `sync` makes all that has
  // been written to the file so, and returns an errno value. nullptr and
  // `*error`, an errno value, on failure.
  static std::unique_ptr<KeptMap> Open(const Place& place, Believe believe,
                                       absl::FunctionRef<int()> sync,
                                       int* error);

  // Calls `visit` for each run [begin, end) of blocks that are in the copy.
  void ForEachRun(
      absl::FunctionRef<void(uint64_t begin, uint64_t end)> visit) const;

  // The blocks of [begin, end), whose data has been written, are in the copy.
  // 0 or an errno value: of those that weren't in it before, only the ones
  // before `*end_added` are.
  int Add(uint64_t begin, uint64_t end, uint64_t* end_added);

  // Whether the loss of power would leave all blocks of [begin, end) in the
  // copy.
  bool AreDurable(uint64_t begin, uint64_t end);

  // Makes the data and the durable map durable: `sync` makes all that has been
  // written to the file so, and returns an errno value. 0 or an errno value.
  int Flush(absl::FunctionRef<int()> sync);

 private:
  struct Free {
    void operator()(unsigned char* bytes) const { std::free(bytes); }
  };
  using Bytes = std::unique_ptr<unsigned char[], Free>;
  // Of a map; what is written at once.
  static constexpr uint64_t kPage = 4096;

  KeptMap(const Place& place, Bytes live, Bytes durable);

  // Reads a map, but for what is a hole in the file. 0 or an errno value.
  static int Read(int fd, uint64_t offset, uint64_t size, unsigned char* out);
  // Writes the durable map over the live one. 0 or an errno value.
  int RestoreLive(absl::FunctionRef<int()> sync);
  // Adds blocks whose bits are in one page. All or none. Needs mutex_.
  int AddInPage(uint64_t begin, uint64_t end);
  // Finds the pages in which the maps differ.
  void FindChanges();

  // Bytes of a page that exist.
  uint64_t PageSize(size_t page) const;
  // Moves the changed pages into taken_, and what the live map has there into
  // the durable one. Needs flush_.
  void TakeChanges();
  int WriteTaken();
  void PutBack();

  const Place place_;
  const uint64_t bytes_;  // of a map
  std::mutex flush_;
  std::mutex mutex_;
  const Bytes live_;     // needs mutex_
  const Bytes durable_;  // needs mutex_, and flush_ to be changed
  // Pages of the live map that the durable one lacks. Both have room for all
  // pages; each page is in one of them at most once.
  std::vector<bool> is_changed_;   // needs mutex_
  std::vector<uint32_t> changed_;  // needs mutex_
  std::vector<uint32_t> taken_;    // needs flush_
  // The bits of durable_ are on stable storage. False until the first Flush():
  // an earlier process may have written bits, and ended before its sync.
  std::atomic<bool> durable_holds_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_MAP_H_
