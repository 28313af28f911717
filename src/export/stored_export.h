// An export whose bytes are those of one open file: what regular files and
// block devices have in common. They differ only in how their size is read and
// how a range is trimmed or zeroed.
#ifndef NBDINETD_EXPORT_STORED_EXPORT_H_
#define NBDINETD_EXPORT_STORED_EXPORT_H_

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "export/blocks.h"
#include "export/calls_under_way.h"
#include "export/export.h"
#include "export/page_cache.h"

namespace nbdinetd {

// RWF_NOAPPEND of pwritev2(2), since Linux 6.9; older C libraries don't define
// it.
inline constexpr int kRwfNoAppend = 0x20;

class StoredExport : public Export {
 public:
  // How the file was opened, and where.
  struct Opening {
    bool read_only = false;
    Sharing sharing = Sharing::kOwn;
    Storage storage = {};
  };

  std::optional<Location> Locate(uint64_t offset,
                                 uint64_t length) const override {
    if (reads_bypass_cache_) return std::nullopt;
    return Location{fd(), offset, length};
  }
  std::optional<Origin> FindOrigin(uint64_t offset,
                                   uint64_t length) const override {
    return Origin{offset, length};
  }
  int lock_fd() const override { return fd_.get(); }
  bool lock_fd_is_read_only() const override { return facts().read_only; }

  bool caches_reads() const override { return !reads_bypass_cache_; }
  bool begins_reads() const override { return false; }
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override;
  bool IsCached(uint64_t offset, uint64_t length) override;
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override;
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  bool writes_busy() const override {
    return writes_busy_.load(std::memory_order_relaxed) != 0;
  }
  bool WriteWouldWait(uint64_t offset, uint64_t length) override;
  int Flush() override { return facts().temporary ? 0 : Sync(); }
  int Prefetch(uint64_t offset, uint64_t length) override;
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out) override;
  bool finding_extents_may_sync() const override {
    return finding_extents_may_sync_.load(std::memory_order_relaxed);
  }

  // As ReadCached() and Read(), but the kernel drops what they bring into the
  // page cache as soon as it has been read (RWF_DONTCACHE, since Linux 6.14).
  // ReadCachedOnce() starts the read of what isn't cached; ReadOnce() must
  // follow. nullopt where the kernel or the file system can't do that.
  std::optional<size_t> ReadCachedOnce(uint64_t offset, absl::Span<char> out);
  std::optional<StorageError> ReadOnce(uint64_t offset, absl::Span<char> out,
                                       size_t* done);
  // False once one of them has returned nullopt.
  bool reads_once() const {
    return reads_once_.load(std::memory_order_relaxed);
  }
  // Drops the range from the page cache, with the whole of the pages at its
  // ends, but for pages that are dirty or in use.
  void Drop(uint64_t offset, uint64_t length);

  // Begins what WriteBack() does, and reports no error. It may wait for the
  // storage's queue, and not for the bytes.
  void BeginWriteBack(uint64_t offset, uint64_t length);

  // Writes the dirty pages of the range to the storage (sync_file_range). They
  // aren't durable afterwards: the storage may have a volatile cache. 0 or an
  // errno value.
  int WriteBack(uint64_t offset, uint64_t length);

 protected:
  // During its lifetime, the kernel would block writes, and with
  // kReadsAndWrites also RWF_NOWAIT reads, on the export. The transmission
  // thread therefore leaves them to workers.
  class Busy {
   public:
    enum Holds { kWrites, kReadsAndWrites };
    Busy(StoredExport& target, Holds holds)
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
    StoredExport& target_;
    const int reads_;
  };

  StoredExport(std::string path, UniqueFd fd, Facts facts);

  int fd() const { return fd_.get(); }
  // Writes zeroes to the parts of the range before and behind `whole`.
  int WriteZeroesAround(Range whole, uint64_t offset, uint64_t length);
  // Runs `call`, a system call that reports lost writes; it returns an errno
  // value. The kernel reports a lost write to one such call, and the next one
  // succeeds. 0 is therefore returned only after every overlapping call has
  // returned, too. `is_loss` says whether an errno value means lost data; after
  // such a value, all calls fail with it.
  int DurableCall(absl::FunctionRef<int()> call,
                  absl::FunctionRef<bool(int)> is_loss);
  // Zeroes the range by writes of zero bytes; `cut_short` as for Zero().
  int WriteZeroes(uint64_t offset, uint64_t length,
                  const std::atomic<bool>* cut_short);

 private:
  // Flush(), also of a temporary file.
  int Sync();
  // As Read(), with these flags of preadv2(2).
  StorageError ReadWith(int flags, uint64_t offset, absl::Span<char> out,
                        size_t* done);
  // As ReadCached(); the pieces may overlap.
  size_t ReadCachedPieces(uint64_t offset, absl::Span<const iovec> pieces);
  // Whether the whole range can be read without waiting for the storage.
  bool CanReadCached(uint64_t offset, uint64_t length);
  void ForgetFailedPages(uint64_t offset);
  bool MakeClean(uint64_t offset, uint64_t length);
  int WriteToCache(uint64_t offset, absl::Span<const char> data);
  int WriteDurably(uint64_t offset, absl::Span<const char> data);

  const UniqueFd fd_;
  const int write_flags_;  // of pwritev2(2), for all writes
  // read(2) asks the file system each time, also for what is cached.
  const bool reads_bypass_cache_;
  PageCache page_cache_;
  std::atomic<bool> finding_extents_may_sync_ = false;
  // The file system supports RWF_NOWAIT for reads.
  std::atomic<bool> reads_nowait_ = true;
  // The file system doesn't support it, but is in memory: a read never waits.
  std::atomic<bool> lives_in_memory_ = false;
  std::atomic<bool> reads_once_ = true;
  std::atomic<int> flush_error_ = 0;
  CallsUnderWay durable_calls_;
  std::atomic<int> reads_busy_ = 0;
  std::atomic<int> writes_busy_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_STORED_EXPORT_H_
