// A file or block device beside the page cache (--cache=none): a layer directly
// on what stores it, with a second descriptor (O_DIRECT) for reads and writes.
//
// The storage reads and writes whole blocks. Aligned requests go straight from
// and to the caller's memory, the rest through a buffer of the thread. Several
// processes may serve the same file, so that no block that is written in part
// may be read by one process and written back by it while another one changes
// the rest of the block:
//
//   - In a file, the kernel writes the part: through the page cache, where it
//     excludes every other write to the file, by any process. The pages are
//     written back and dropped before the request is answered. This also serves
//     the last block of a file whose size is no multiple.
//   - On a block device, the kernel doesn't exclude other writes, and a page
//     that is written back contains blocks that weren't changed. Direct reads
//     the block and writes all of it, with its range locked (RangeLocks); other
//     changes share their range.
//
// Whole blocks are trimmed and zeroed by the export below, which writes no
// page for that. Threads: see Export.
#ifndef NBDINETD_EXPORT_DIRECT_H_
#define NBDINETD_EXPORT_DIRECT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "export/direct_alignment.h"
#include "export/layer.h"
#include "export/range_locks.h"
#include "export/stored_export.h"

namespace nbdinetd {

class Direct : public Layer {
 public:
  // `fd` is the file of `base`, open with O_DIRECT for what `base` may do, and
  // `alignment` is its own.
  static std::unique_ptr<Export> Create(std::unique_ptr<StoredExport> base,
                                        UniqueFd fd, DirectAlignment alignment);
  // That alignment. Unavailable when `fd` is another file, or can't be read
  // with any.
  static absl::StatusOr<DirectAlignment> FindAlignment(const StoredExport& base,
                                                       int fd);
  // The status when the file of `base` can't be opened with O_DIRECT, with the
  // errno value of open(2).
  static absl::Status OpenError(const StoredExport& base, int error_number);

  bool caches_reads() const override { return false; }
  std::optional<Location> Locate(uint64_t, uint64_t) const override {
    return std::nullopt;
  }
  size_t ReadCached(uint64_t, absl::Span<char>) override { return 0; }
  bool IsCached(uint64_t, uint64_t) override { return false; }
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override;
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  // Every write waits for the storage.
  bool writes_busy() const override { return true; }
  bool WriteWouldWait(uint64_t, uint64_t) override { return true; }
  int Trim(uint64_t offset, uint64_t length) override;
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override;
  int Prefetch(uint64_t, uint64_t) override { return 0; }

 private:
  Direct(std::unique_ptr<StoredExport> base, Facts facts, UniqueFd fd,
         DirectAlignment alignment);

  // Lock for a change of the range, which is rounded to blocks; on a file, it
  // is empty. Exclusive if the change covers a block in part.
  Range LockedRange(uint64_t offset, uint64_t length) const;
  RangeLocks::Kind LockKind(uint64_t offset, uint64_t length) const;

  // These return 0 or an errno value, and the caller has the lock.
  int WriteLocked(uint64_t offset, absl::Span<const char> data, bool durable);
  // Writes whole blocks.
  int WriteBlocks(uint64_t offset, absl::Span<const char> data, bool durable);
  // Writes a part of one block.
  int WritePart(uint64_t offset, absl::Span<const char> data);
  int WritePartOfFile(uint64_t offset, absl::Span<const char> data);
  int WritePartOfDevice(uint64_t offset, absl::Span<const char> data);

  // Writes zeroes; `cut_short` as for Zero().
  int WriteZeroes(uint64_t offset, uint64_t length,
                  const std::atomic<bool>* cut_short);

  StoredExport& stored_;  // base()
  const UniqueFd fd_;
  const DirectAlignment alignment_;
  RangeLocks locks_;  // of a block device
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_DIRECT_H_
