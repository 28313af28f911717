// What a connection serves: a regular file or a block device, or a part of one.
//
// An export is what the storage has (StoredExport), or a layer on another
// export, which looks the same. Callers guarantee that each range lies inside
// the export. Offsets and lengths are in bytes. Functions of the data path
// return 0 or an errno value (Read() a StorageError), allocate nothing, and may
// be called from several threads at the same time.
#ifndef NBDINETD_EXPORT_EXPORT_H_
#define NBDINETD_EXPORT_EXPORT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/types/span.h"
#include "base/block_sizes.h"
#include "export/extents.h"
#include "export/storage.h"
#include "export/storage_error.h"

namespace nbdinetd {

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
    // No client sees what another one writes.
    bool private_copy = false;
    // The storage is deleted when the connection ends: nothing has to be
    // durable.
    bool temporary = false;
    Sharing sharing = Sharing::kOwn;
    // Other processes share the description of lock_fd(), and so its locks,
    // although requests that write use another one.
    bool shares_locks = false;
    // Of what has the locks: with --cow the original, with --cow=keep the copy.
    Storage storage = {};
    // Requests pass by the page cache, in whole blocks of so many bytes; 0:
    // they don't. kNoBlock: no request of a client covers whole blocks.
    uint32_t direct_block_bytes = 0;
    // They would by default (StoragePromises::direct_by_default), but the
    // storage can't do that.
    bool lacks_direct = false;
  };
  static constexpr uint32_t kNoBlock = std::numeric_limits<uint32_t>::max();

  virtual ~Export() = default;
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  const Facts& facts() const { return facts_; }
  // The file's path, for messages.
  const std::string& path() const { return path_; }
  bool shares_description() const { return facts_.sharing != Sharing::kOwn; }
  // Whether a lock on lock_fd() would be that of other processes, too.
  bool shares_locks() const {
    return shares_description() || facts_.shares_locks;
  }

  // Where bytes of the export are stored, for sendfile() and similar calls.
  struct Location {
    int fd;  // borrowed
    uint64_t offset;
    uint64_t length;  // what lies there in one piece: at least 1
  };
  // Where the beginning of a range lies; nullopt if it is in no file, or must
  // not be sent from there. The length of the range is at least 1.
  virtual std::optional<Location> Locate(uint64_t offset,
                                         uint64_t length) const = 0;

  // Which bytes of the file or device of lock_fd() the export shows.
  struct Origin {
    uint64_t offset;
    uint64_t length;  // in one piece: at least 1
  };
  // Of the beginning of a range, as Locate(), and also where nothing may be
  // sent from the file; nullopt if it isn't in that file.
  virtual std::optional<Origin> FindOrigin(uint64_t offset,
                                           uint64_t length) const = 0;

  // The descriptor that all requests use, for locks on its open file
  // description; borrowed.
  virtual int lock_fd() const = 0;
  // Whether lock_fd() is open for reading only, which a lock for writing needs
  // to know. A private copy can be written to, and what it is of can't.
  virtual bool lock_fd_is_read_only() const = 0;

  // Whether the page cache keeps, for a while, what Read() and Prefetch() have
  // read. Otherwise each byte is to be read only once.
  virtual bool caches_reads() const = 0;
  // Reads from the page cache without waiting for the storage. Returns the
  // number of bytes read, which may be less than `out` holds. 0: call Read(),
  // which waits and reports errors.
  virtual size_t ReadCached(uint64_t offset, absl::Span<char> out) = 0;
  // Whether ReadCached() starts the read of what isn't cached, so that the
  // storage works on it before Read() is called. Read() must then be called,
  // also if nobody wants the bytes any more: only that drops them from the page
  // cache. Never true with caches_reads().
  virtual bool begins_reads() const = 0;
  // Whether the whole range is in the page cache. Where the kernel doesn't tell
  // (PageCache), reads the range with RWF_NOWAIT; false where that isn't
  // possible either.
  virtual bool IsCached(uint64_t offset, uint64_t length) = 0;
  // Fills `out`, and waits for the storage. On an error, the first `*done`
  // bytes are valid. StorageError::Truncated() when the file ends inside the
  // range.
  virtual StorageError Read(uint64_t offset, absl::Span<char> out,
                            size_t* done) = 0;

  // Writes all of `data`; with `durable`, it is on stable storage when 0 is
  // returned. 0 or an errno value.
  virtual int Write(uint64_t offset, absl::Span<const char> data,
                    bool durable) = 0;
  // A worker is in a system call that would block every write.
  virtual bool writes_busy() const = 0;
  // Whether a write of this range would wait for the storage. It does if it
  // covers part of an uncached page, which the kernel reads first, or if
  // writes_busy().
  virtual bool WriteWouldWait(uint64_t offset, uint64_t length) = 0;

  // Returns 0 once all completed writes are on stable storage; also for a
  // read-only export on a file system without fsync. Once this or a durable
  // write has reported a lost write, every later call returns the same errno
  // value: the kernel reports a lost write once, and a later success would not
  // mean that the data is safe.
  virtual int Flush() = 0;

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
  virtual int Prefetch(uint64_t offset, uint64_t length) = 0;

  // Appends 1 to `limit` extents from `offset` on; holes and data alternate,
  // and the last extent may end beyond the range, but not beyond the export.
  // Every hole reads as zeroes. Once `*cut_short` is true, one extent is
  // enough; nullptr: never. 0 or an errno value.
  virtual int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                          const std::atomic<bool>* cut_short, Extents* out) = 0;
  // Whether FindExtents() writes dirty pages back and waits for it; set by the
  // first call that does.
  virtual bool finding_extents_may_sync() const = 0;

 protected:
  Export(std::string path, Facts facts)
      : path_(std::move(path)), facts_(facts) {}

 private:
  const std::string path_;
  const Facts facts_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXPORT_H_
