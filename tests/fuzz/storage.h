// A file that exists for one input: what is in it, where its holes are, what of
// it the page cache has, what has reached the disk, and what goes wrong.
//
// While a Storage lives, what src/ does with kStorageFd by pread(), pwrite(),
// fallocate(), fdatasync() and their like ends up here (--wrap), so that the
// real exports are tried without a real file. It holds the file to its bounds,
// and it remembers what each change has overwritten, so that a reader may be
// given any of the values that a byte had while its request was under way.
// Threads: one.

#ifndef NBDINETD_TESTS_FUZZ_STORAGE_H_
#define NBDINETD_TESTS_FUZZ_STORAGE_H_

#include <linux/fiemap.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "fuzz/input.h"
#include "fuzz/simulation.h"

namespace nbdfuzz {

class Storage {
 public:
  static constexpr uint64_t kPage = 4096;
  using Page = std::array<char, kPage>;

  // What changes the file, before it does: kWrite has the bytes.
  enum class Change { kWrite, kZero, kAllocate };
  std::function<void(Change, uint64_t offset, uint64_t length,
                     std::string_view bytes)>
      on_change;
  // The export is read-only: a file system without fsync() loses nothing.
  bool read_only = false;

  Storage(const Input& input, Simulation& simulation);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  static Storage* Current();

  // What fstat() says.
  struct stat Stat() const;
  uint64_t size() const { return size_; }

  // How many changes there have been.
  size_t time() const { return changes_.size(); }
  // The first position in `bytes` whose byte the file hasn't had at
  // offset + position at any time from `since` on; nullopt when there is none.
  std::optional<size_t> FirstDifference(uint64_t offset, std::string_view bytes,
                                        size_t since) const;
  // The same for zeroes.
  std::optional<uint64_t> FirstNonZero(uint64_t offset, uint64_t length,
                                       size_t since) const;
  // Whether everything that was changed at times [begin, end) has reached the
  // disk.
  bool Durable(size_t time) const { return changes_[time].durable; }
  // A sync has failed: what was to be kept is lost.
  bool has_lost() const { return lost_; }
  // Something has gone wrong that a client may be told of.
  bool has_failed() const { return failed_; }
  // The file system says no to what it can't do.
  bool lacks_something() const { return lacks_ != 0; }

  // The system calls: results as theirs, errors as negated errno.
  ssize_t Read(char* out, size_t length, int64_t offset, bool wait);
  ssize_t Write(std::string_view bytes, int64_t offset, bool durable);
  int Sync();
  int Allocate(int mode, int64_t offset, int64_t length);
  int64_t Seek(int64_t offset, bool for_hole);
  int Advise(int64_t offset, int64_t length);
  // Drops pages from the cache; the range may go past the end of the file.
  void Forget(int64_t offset, int64_t length);
  int Map(fiemap* map);
  // cachestat(): the pages that are cached, and those that are dirty.
  int CountCached(uint64_t offset, uint64_t length, uint64_t* pages,
                  uint64_t* dirty);
  // Where there is no cachestat(): whether the file can be mapped, and what
  // mincore() says of `count` pages of the mapping, one byte each.
  bool CanBeMapped(uint64_t offset, uint64_t length) const;
  void TellCached(uint64_t first, uint64_t count, unsigned char* states) const;
  // sync_file_range() of all kinds.
  int WriteBack(int64_t offset, int64_t length);
  // FS_IOC_GETFLAGS.
  int flags() const;
  // What fstatfs() says of the file system's type.
  long type() const;

 private:
  enum Lack {
    kPunchHole,
    kZeroRange,
    kAllocation,
    kSeeking,
    kNowait,
    kMemory,
    kCachestat,
    kDsync,
  };
  struct Changed {
    uint64_t offset;
    uint64_t length;
    bool durable = false;
    // Pages as they were before, of those that weren't zero.
    std::map<uint64_t, Page> before;
  };

  bool Lacks(Lack lack) const { return (lacks_ >> lack & 1) != 0; }
  // What goes wrong now: an errno, or 0. `failures` are those of the call.
  int Fault();
  void Truncate(uint8_t decision);
  void CheckRange(int64_t offset, uint64_t length) const;
  Changed& Note(Change change, uint64_t offset, uint64_t length,
                std::string_view bytes);
  void Fill(uint64_t offset, uint64_t length, std::string_view bytes);
  // Splits the runs at `offset`, so that one begins there.
  void SplitAt(uint64_t offset);
  void SetRun(uint64_t offset, uint64_t length, bool data);
  bool IsData(uint64_t offset) const;
  // Whether SEEK_DATA misses what is dirty: on ext4 without extents, and on a
  // file system that nobody knows, but on no other.
  bool forgets() const;
  void Clean(uint64_t first_page, uint64_t end_page);
  // nullptr for zeroes.
  const Page* PageAt(uint64_t number) const;
  Page& WritablePage(uint64_t number);
  bool IsCached(uint64_t number) const;
  char ByteBefore(const Changed& changed, uint64_t position) const;
  // The changes of the range since then: there may be millions of others.
  std::vector<const Changed*> ChangesOf(uint64_t offset, uint64_t length,
                                        size_t since) const;
  bool HadByte(uint64_t position, char byte,
               const std::vector<const Changed*>& changes) const;

  Simulation& simulation_;
  const uint64_t export_size_;
  uint64_t size_;  // of the file, which may have been truncated
  const uint8_t cache_;
  uint8_t lacks_;
  // Bits: whether it has a map of the extents, and what it says in it.
  enum MapBit {
    kHasNone,
    kUnwritten,
    kDelayed,
    kRefused,
    kLeavesOut,
    kNoExtents,
    // And of the mapping: there is none, or mincore() tells nothing.
    kNoMapping,
    kSecret
  };
  const uint8_t map_;
  bool failed_ = false;
  bool lost_ = false;
  // Where each run of data or hole begins.
  std::map<uint64_t, bool> runs_;
  std::map<uint64_t, bool> initial_runs_;
  std::map<uint64_t, Page> pages_;
  std::set<uint64_t> cached_;
  std::set<uint64_t> dirty_;
  // Dirty pages over what is a hole on the disk: a file system that is not to
  // be believed takes them for a hole.
  std::set<uint64_t> forgotten_;
  std::vector<Changed> changes_;
  size_t first_undurable_ = 0;
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_STORAGE_H_
