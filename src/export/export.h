// What is served: a regular file or a block device, open for as long as the
// connection lasts.
//
// Ranges that come in are known to lie inside the export. Functions of the
// data path return 0 or an errno value, allocate nothing, and may be called
// from any thread at the same time. Files and block devices differ in how they
// are measured, trimmed and zeroed, nothing else; those are virtual.
#ifndef NBDINETD_EXPORT_EXPORT_H_
#define NBDINETD_EXPORT_EXPORT_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "export/calls_under_way.h"
#include "export/extents.h"
#include "export/storage_error.h"

namespace nbdinetd {

// RWF_NOAPPEND of pwritev2(2), Linux 6.9: newer than the C library's headers.
inline constexpr int kRwfNoAppend = 0x20;

class Export {
 public:
  // Whether other processes may have the open file description that requests
  // use. What they share, the file's offset and the file status flags, is left
  // as it is.
  enum class Sharing {
    kOwn,
    // It was handed over, and couldn't be opened anew.
    kShared,
    // The same, and O_APPEND is among the flags.
    kSharedForAppending,
  };

  // What is known when the export is opened, and doesn't change afterwards.
  struct Facts {
    uint64_t size_bytes = 0;
    uint32_t preferred_block_bytes = 4096;  // a power of 2, 512 or more
    bool read_only = false;
    bool rotational = false;
    bool block_device = false;
    Sharing sharing = Sharing::kOwn;
  };

  virtual ~Export() = default;
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  const Facts& facts() const { return facts_; }
  // The file's name, for messages.
  const std::string& path() const { return path_; }

  // Where the export's bytes live, for who can move them without reading them.
  struct Location {
    int fd;  // borrowed
    uint64_t offset;
  };
  Location Locate(uint64_t offset) const { return {fd(), offset}; }

  // The descriptor that all requests use, for the locks of its open file
  // description.
  int lock_fd() const { return fd_.get(); }
  bool shares_description() const { return facts_.sharing != Sharing::kOwn; }

  // Reads what the page cache holds, without waiting for the storage: the
  // number of bytes, perhaps fewer than wanted; 0 when nothing is to be had
  // that way (the caller then uses Read, which also finds out why).
  size_t ReadCached(uint64_t offset, absl::Span<char> out);
  // Whether all of the range is in the page cache, as far as can be told.
  bool IsCached(uint64_t offset, uint64_t length);
  // Fills `out`, waiting for the storage. On an error `*done` bytes of it are
  // good. StorageError::Truncated() when the file ends before the range does.
  StorageError Read(uint64_t offset, absl::Span<char> out, size_t* done);

  // Writes all of `data`; with `durable` it is on stable storage when this
  // returns 0.
  int Write(uint64_t offset, absl::Span<const char> data, bool durable);
  // A worker is at something that every write would wait for.
  bool writes_busy() const {
    return writes_busy_.load(std::memory_order_relaxed) != 0;
  }
  // Whether a write of this range would have to wait for the storage: since it
  // covers a page in part that isn't in the page cache, and has to be read
  // first; or since writes_busy().
  bool WriteWouldWait(uint64_t offset, uint64_t length);

  // Everything that was written before is on stable storage when this returns
  // 0; of a read-only export on a file system that knows no sync, nothing was.
  // Once this, or a durable write, has failed, every later call fails the same
  // way: the kernel reports a lost write once, and a client must not take the
  // next success for its rescue.
  int Flush();

  // A hint; discards what it can.
  virtual int Trim(uint64_t offset, uint64_t length) = 0;

  enum class Hole { kAllowed, kForbidden };
  enum class Speed { kAny, kFastOnly };
  // The range reads as zeroes afterwards. With kForbidden it is allocated;
  // with kFastOnly, EOPNOTSUPP and nothing changed where zeroes would have to
  // be written.
  virtual int Zero(uint64_t offset, uint64_t length, Hole hole,
                   Speed speed) = 0;

  // Starts reading the range into the page cache, and doesn't wait.
  int Prefetch(uint64_t offset, uint64_t length);

  // Appends at most `limit` extents that start at `offset`; alternating, the
  // last one perhaps reaching beyond `length`. On success at least one. What is
  // called a hole reads as zeroes.
  int FindExtents(uint64_t offset, uint64_t length, size_t limit, Extents* out);
  // Whether FindExtents() has to write back what is dirty, and waits for that;
  // known from its first call on.
  bool finding_extents_may_sync() const {
    return finding_extents_may_sync_.load(std::memory_order_relaxed);
  }

 protected:
  // While one lives, writes, or even reads that ask not to wait, would wait for
  // it in the kernel, so that they had better not run inline.
  class Busy {
   public:
    enum Holds { kWrites, kReadsAndWrites };
    Busy(Export& target, Holds holds)
        : target_(target), reads_(holds == kReadsAndWrites ? 1 : 0) {
      ++target_.writes_busy_;
      target_.reads_busy_ += reads_;
    }
    ~Busy() {
      --target_.writes_busy_;
      target_.reads_busy_ -= reads_;
    }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    Export& target_;
    const int reads_;
  };

  Export(std::string path, UniqueFd fd, Facts facts);

  int fd() const { return fd_.get(); }
  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  // What of a range is whole blocks of so many bytes; perhaps nothing.
  static Range WholeBlocks(uint64_t offset, uint64_t length,
                           uint64_t block_bytes);
  // Zeroes what is left of a range at both ends of its whole blocks.
  int WriteZeroesAround(Range whole, uint64_t offset, uint64_t length);
  // Makes a system call that reports lost writes, `call()` giving its errno.
  // The kernel tells a lost write to one such call, and the next one succeeds.
  // So success is believed only once every call that was under way at the same
  // time has had its say; `is_loss` tells which errors mean that something is
  // lost, after which this fails for ever.
  int DurableCall(absl::FunctionRef<int()> call,
                  absl::FunctionRef<bool(int)> is_loss);
  // Writes zeroes the slow way.
  int WriteZeroes(uint64_t offset, uint64_t length);
  // Writes back what is dirty in the range, which isn't durable then: the
  // storage may have it in a cache of its own.
  int WriteBack(uint64_t offset, uint64_t length);

 private:
  void ForgetFailedPages(uint64_t offset);
  bool MakeClean(uint64_t offset, uint64_t length);
  int WriteToCache(uint64_t offset, absl::Span<const char> data);
  int WriteDurably(uint64_t offset, absl::Span<const char> data);

  const std::string path_;
  const UniqueFd fd_;
  const Facts facts_;
  const int write_flags_;  // of pwritev2(2), for every write
  std::atomic<bool> finding_extents_may_sync_ = false;
  // The file system answers RWF_NOWAIT reads.
  std::atomic<bool> reads_nowait_ = true;
  // It doesn't, but lives in memory, so that a read never waits.
  std::atomic<bool> lives_in_memory_ = false;
  std::atomic<int> flush_error_ = 0;
  CallsUnderWay durable_calls_;
  std::atomic<int> reads_busy_ = 0;
  std::atomic<int> writes_busy_ = 0;
};

// Opens `path` by `open_with`, which is given the flags of open(2) and returns
// a descriptor, or -1 and errno. Read-write unless `read_only`; falls back to
// read-only when that is all that is allowed, and says why in
// `*read_only_reason` (else left alone). Opening never waits, and what turns
// out to be neither a regular file nor a block device is closed at once.
//
// NotFound when there is no such file; as OpenErrorStatus() else.
absl::StatusOr<std::unique_ptr<Export>> OpenExportWith(
    absl::FunctionRef<int(int flags)> open_with, const std::string& path,
    bool read_only, std::string* read_only_reason);

// Why `path` can't be opened: NotFound when there is nothing to open,
// PermissionDenied, Internal when it is the process that lacks something,
// Unavailable for what is the file's or the storage's trouble.
absl::Status OpenErrorStatus(int error_number, const std::string& path);

// That an export is read-only though nobody asked for it, for a person.
std::string ReadOnlyNotice(const std::string& name,
                           const std::string& read_only_reason);

// Opens `path`, read-write unless `read_only`; falls back to read-only when
// that is all that is allowed, and says why in `*read_only_reason` (else left
// alone). NotFound when it can't be opened or is neither a regular file nor a
// block device; opening never waits and never acts on a device.
absl::StatusOr<std::unique_ptr<Export>> OpenExport(
    const std::string& path, bool read_only, std::string* read_only_reason);

// The same for a file that was handed over as `fd`, which stays the caller's.
// `name` is for messages. It is opened anew if the process may do so, since
// the kernel tells a lost write to each open file description once, and
// processes that share one would hide it from each other; else it is
// duplicated. Read-only when `fd` can't write.
absl::StatusOr<std::unique_ptr<Export>> OpenHandedOver(
    int fd, const std::string& name, bool read_only,
    std::string* read_only_reason);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXPORT_H_
