// What a connection serves: a regular file or a block device.
//
// Callers guarantee that each range lies inside the export. Offsets and lengths
// are in bytes. Functions of the data path return 0 or an errno value (Read() a
// StorageError), allocate nothing, and may be called from several threads at
// the same time. Regular files and block devices differ only in how their size
// is read and how a range is trimmed or zeroed.
#ifndef NBDINETD_EXPORT_EXPORT_H_
#define NBDINETD_EXPORT_EXPORT_H_

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/block_sizes.h"
#include "base/unique_fd.h"
#include "export/calls_under_way.h"
#include "export/export_settings.h"
#include "export/extents.h"
#include "export/page_cache.h"
#include "export/storage_error.h"

namespace nbdinetd {

// RWF_NOAPPEND of pwritev2(2), since Linux 6.9; older C libraries don't define
// it.
inline constexpr int kRwfNoAppend = 0x20;

class Export {
 public:
  // Whether other processes may share the open file description that requests
  // use. Its offset and its file status flags are then never changed.
  enum class Sharing {
    kOwn,
    // The file was handed over, and couldn't be opened anew.
    kShared,
    // Like kShared, and O_APPEND is set.
    kSharedForAppending,
  };

  // Properties that are read when the export is opened, and never change.
  struct Facts {
    uint64_t size_bytes = 0;  // a multiple of block_sizes.minimum
    // At the end of the file: less than block_sizes.minimum.
    uint32_t unserved_bytes = 0;
    BlockSizes block_sizes = {};
    bool read_only = false;
    bool rotational = false;
    bool block_device = false;
    Sharing sharing = Sharing::kOwn;
  };

  virtual ~Export() = default;
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  const Facts& facts() const { return facts_; }
  // The file's path, for messages.
  const std::string& path() const { return path_; }

  // Where bytes of the export are stored, for sendfile() and similar calls.
  struct Location {
    int fd;  // borrowed
    uint64_t offset;
  };
  Location Locate(uint64_t offset) const { return {fd(), offset}; }

  // The descriptor that all requests use, for locks on its open file
  // description; borrowed.
  int lock_fd() const { return fd_.get(); }
  bool shares_description() const { return facts_.sharing != Sharing::kOwn; }

  // Reads from the page cache without waiting for the storage. Returns the
  // number of bytes read, which may be less than `out` holds. 0: call Read(),
  // which waits and reports errors.
  size_t ReadCached(uint64_t offset, absl::Span<char> out);
  // Whether the whole range is in the page cache. Where the kernel doesn't tell
  // (PageCache), reads the range with RWF_NOWAIT; false where that isn't
  // possible either.
  bool IsCached(uint64_t offset, uint64_t length);
  // Fills `out`, and waits for the storage. On an error, the first `*done`
  // bytes are valid. StorageError::Truncated() when the file ends inside the
  // range.
  StorageError Read(uint64_t offset, absl::Span<char> out, size_t* done);

  // Writes all of `data`; with `durable`, it is on stable storage when 0 is
  // returned. 0 or an errno value.
  int Write(uint64_t offset, absl::Span<const char> data, bool durable);
  // A worker is in a system call that would block every write.
  bool writes_busy() const {
    return writes_busy_.load(std::memory_order_relaxed) != 0;
  }
  // Whether a write of this range would wait for the storage. It does if it
  // covers part of an uncached page, which the kernel reads first, or if
  // writes_busy().
  bool WriteWouldWait(uint64_t offset, uint64_t length);

  // Returns 0 once all completed writes are on stable storage; also for a
  // read-only export on a file system without fsync. Once this or a durable
  // write has reported a lost write, every later call returns the same errno
  // value: the kernel reports a lost write once, and a later success would not
  // mean that the data is safe.
  int Flush();

  // Discards the whole blocks of the range if the storage can; only a hint. 0
  // or an errno value.
  virtual int Trim(uint64_t offset, uint64_t length) = 0;

  enum class Hole { kAllowed, kForbidden };
  enum class Speed { kAny, kFastOnly };
  // Makes the range read as zeroes. kForbidden: the range is allocated.
  // kFastOnly: returns EOPNOTSUPP, and changes nothing, if zeroes would have to
  // be written. 0 or an errno value; ECANCELED if zeroes are being written when
  // `*cut_short` becomes true (nullptr: never).
  virtual int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
                   const std::atomic<bool>* cut_short) = 0;

  // Starts reading the range into the page cache, and doesn't wait. 0 or an
  // errno value.
  int Prefetch(uint64_t offset, uint64_t length);

  // Appends 1 to `limit` extents from `offset` on; holes and data alternate,
  // and the last extent may end beyond the range. Every hole reads as zeroes.
  // Once `*cut_short` is true, one extent is enough; nullptr: never. 0 or an
  // errno value.
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out);
  // Whether FindExtents() writes dirty pages back and waits for it; set by the
  // first call that does.
  bool finding_extents_may_sync() const {
    return finding_extents_may_sync_.load(std::memory_order_relaxed);
  }

 protected:
  // During its lifetime, the kernel would block writes, and with
  // kReadsAndWrites also RWF_NOWAIT reads, on the export. The transmission
  // thread therefore leaves them to workers.
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

  // Sets the facts that the administrator has chosen; the storage's are set.
  static void ApplySettings(const ExportSettings& settings, Facts& facts);

  int fd() const { return fd_.get(); }
  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  // The whole blocks of `block_bytes` inside the range; the length may be 0.
  static Range WholeBlocks(uint64_t offset, uint64_t length,
                           uint64_t block_bytes);
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
  // Writes the dirty pages of the range to the storage (sync_file_range). They
  // aren't durable afterwards: the storage may have a volatile cache.
  int WriteBack(uint64_t offset, uint64_t length);

 private:
  // As ReadCached(); the pieces may overlap.
  size_t ReadCachedPieces(uint64_t offset, absl::Span<const iovec> pieces);
  // Whether the whole range can be read without waiting for the storage.
  bool CanReadCached(uint64_t offset, uint64_t length);
  void ForgetFailedPages(uint64_t offset);
  bool MakeClean(uint64_t offset, uint64_t length);
  int WriteToCache(uint64_t offset, absl::Span<const char> data);
  int WriteDurably(uint64_t offset, absl::Span<const char> data);

  const std::string path_;
  const UniqueFd fd_;
  const Facts facts_;
  const int write_flags_;  // of pwritev2(2), for all writes
  PageCache page_cache_;
  std::atomic<bool> finding_extents_may_sync_ = false;
  // The file system supports RWF_NOWAIT for reads.
  std::atomic<bool> reads_nowait_ = true;
  // The file system doesn't support it, but is in memory: a read never waits.
  std::atomic<bool> lives_in_memory_ = false;
  std::atomic<int> flush_error_ = 0;
  CallsUnderWay durable_calls_;
  std::atomic<int> reads_busy_ = 0;
  std::atomic<int> writes_busy_ = 0;
};

// Opens `path` by `open_with`, which gets the flags of open(2) and returns a
// descriptor, or -1 and errno. The export is read-only if `settings` say so, or
// when only that is permitted; the reason for the latter is stored in
// `*read_only_reason`, which is otherwise unchanged. Opening never waits. A
// file that is neither a regular file nor a block device is closed at once.
//
// NotFound when there is no such file; otherwise as OpenErrorStatus().
absl::StatusOr<std::unique_ptr<Export>> OpenExportWith(
    absl::FunctionRef<int(int flags)> open_with, const std::string& path,
    ExportSettings settings, std::string* read_only_reason);

// The status for an errno value of open(2). NotFound: no file to open.
// PermissionDenied: no right to open it. Internal: the process lacks
// descriptors or memory. Unavailable: a fault of the file or the storage.
absl::Status OpenErrorStatus(int error_number, const std::string& path);

// The message for an export that is read-only without --readonly.
std::string ReadOnlyNotice(const std::string& name,
                           const std::string& read_only_reason);

// Opens `path` as OpenExportWith() does, with open(2). NotFound when it can't
// be opened, or is neither a regular file nor a block device. Internal when the
// process lacks descriptors or memory, or a block device reports no size.
// Opening never waits and never operates a device, such as rewinding a tape.
absl::StatusOr<std::unique_ptr<Export>> OpenExport(
    const std::string& path, const ExportSettings& settings,
    std::string* read_only_reason);

// Opens the file that was handed over as `fd`, which the caller keeps; `name`
// is for messages. The file is opened anew if permitted: the kernel reports a
// lost write once per open file description, and processes that share one would
// take the report from each other. Otherwise `fd` is duplicated. The export is
// read-only if `fd` isn't open for writing. Errors and `*read_only_reason` as
// for OpenExport().
absl::StatusOr<std::unique_ptr<Export>> OpenHandedOver(
    int fd, const std::string& name, ExportSettings settings,
    std::string* read_only_reason);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXPORT_H_
