#include "export/stored_export.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/behind_any_file.h"
#include "base/page_size.h"

namespace nbdinetd {
namespace {

// RWF_DONTCACHE of preadv2(2), since Linux 6.14; older C libraries don't define
// it.
constexpr int kRwfDontCache = 0x80;

// The largest folio of the page cache; folios are aligned to their size.
constexpr uint64_t kMaxFolioBytes = 2 << 20;
// The source of written zeroes, in the read-only zero pages of the program.
constexpr size_t kWrittenZeroesBytes = 64 << 10;
const char kZeroes[kWrittenZeroesBytes] = {};

// The buffer for bytes that are read only to learn whether they are cached.
constexpr size_t kDiscardBytes = 4 << 10;
constexpr size_t kDiscardPieces = 64;

bool IsInMemory(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st) != 0) return false;
  const auto type = static_cast<uint64_t>(st.f_type);
  return type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == HUGETLBFS_MAGIC;
}

// A file that a FUSE file system has opened with FOPEN_DIRECT_IO, for instance
// since other hosts change it (ceph-fuse with fuse_disable_pagecache): read(2)
// asks the file system. posix_fadvise(2) and sendfile(2) fill and use the page
// cache all the same, and nothing tells the kernel that its pages are old.
//
// The kernel refuses shared mappings of such a file, of any part; that is the
// only sign. A file system that has them allowed nevertheless
// (FUSE_DIRECT_IO_ALLOW_MMAP) isn't recognized.
bool ReadsBypassPageCache(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st) != 0 ||
      static_cast<uint64_t>(st.f_type) != FUSE_SUPER_MAGIC) {
    return false;
  }
  void* mapping = mmap(nullptr, 1, PROT_NONE, MAP_SHARED, fd,
                       static_cast<off_t>(kBehindAnyFile));
  if (mapping == MAP_FAILED) return errno == ENODEV;
  munmap(mapping, 1);
  return false;
}

}  // namespace

StoredExport::StoredExport(std::string path, UniqueFd fd, Facts facts)
    : Export(std::move(path), facts),
      fd_(std::move(fd)),
      write_flags_(facts.sharing == Sharing::kSharedForAppending ? kRwfNoAppend
                                                                 : 0),
      reads_bypass_cache_(ReadsBypassPageCache(fd_.get())),
      page_cache_(fd_.get(), facts.size_bytes) {}

size_t StoredExport::ReadCached(uint64_t offset, absl::Span<char> out) {
  const iovec piece = {out.data(), out.size()};
  return ReadCachedPieces(offset, {&piece, 1});
}

size_t StoredExport::ReadCachedPieces(uint64_t offset,
                                      absl::Span<const iovec> pieces) {
  if (reads_bypass_cache_) return 0;
  if (reads_busy_.load(std::memory_order_relaxed) != 0) return 0;
  const auto position = static_cast<off_t>(offset);
  const int count = static_cast<int>(pieces.size());
  if (reads_nowait_.load(std::memory_order_relaxed)) {
    const ssize_t n = preadv2(fd(), pieces.data(), count, position, RWF_NOWAIT);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EOPNOTSUPP) return 0;
    // The node of a block device is on a file system in memory; the device
    // isn't.
    lives_in_memory_.store(!facts().block_device && IsInMemory(fd()),
                           std::memory_order_relaxed);
    reads_nowait_.store(false, std::memory_order_relaxed);
  }
  if (!lives_in_memory_.load(std::memory_order_relaxed)) return 0;
  const ssize_t n = preadv(fd(), pieces.data(), count, position);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

bool StoredExport::IsCached(uint64_t offset, uint64_t length) {
  if (length == 0) return true;
  if (reads_bypass_cache_) return false;
  const std::optional<bool> holds = page_cache_.Holds(offset, length);
  return holds.has_value() ? *holds : CanReadCached(offset, length);
}

// All bytes go into one small buffer, which stays in the processor's cache:
// that takes a third of the time of a copy, and less than a call for each page.
bool StoredExport::CanReadCached(uint64_t offset, uint64_t length) {
  char bytes[kDiscardBytes];
  iovec pieces[kDiscardPieces];
  while (length > 0) {
    const uint64_t part =
        std::min<uint64_t>(length, kDiscardBytes * kDiscardPieces);
    size_t count = 0;
    for (uint64_t left = part; left > 0; left -= pieces[count++].iov_len) {
      pieces[count] = {bytes, std::min<size_t>(left, kDiscardBytes)};
    }
    if (ReadCachedPieces(offset, {pieces, count}) != part) return false;
    offset += part;
    length -= part;
  }
  return true;
}

StorageError StoredExport::Read(uint64_t offset, absl::Span<char> out,
                                size_t* done) {
  return ReadWith(0, offset, out, done);
}

std::optional<size_t> StoredExport::ReadCachedOnce(uint64_t offset,
                                                   absl::Span<char> out) {
  if (!reads_once()) return std::nullopt;
  if (reads_bypass_cache_) return 0;
  if (reads_busy_.load(std::memory_order_relaxed) != 0) return 0;
  const iovec piece = {out.data(), out.size()};
  const ssize_t n = preadv2(fd(), &piece, 1, static_cast<off_t>(offset),
                            RWF_NOWAIT | kRwfDontCache);
  if (n >= 0) return static_cast<size_t>(n);
  if (errno != EOPNOTSUPP) return 0;
  reads_once_.store(false, std::memory_order_relaxed);
  return std::nullopt;
}

std::optional<StorageError> StoredExport::ReadOnce(uint64_t offset,
                                                   absl::Span<char> out,
                                                   size_t* done) {
  if (!reads_once()) return std::nullopt;
  const StorageError error = ReadWith(kRwfDontCache, offset, out, done);
  if (error.number != EOPNOTSUPP) return error;
  reads_once_.store(false, std::memory_order_relaxed);
  return std::nullopt;
}

StorageError StoredExport::ReadWith(int flags, uint64_t offset,
                                    absl::Span<char> out, size_t* done) {
  *done = 0;
  while (*done < out.size()) {
    const iovec piece = {out.data() + *done, out.size() - *done};
    const auto position = static_cast<off_t>(offset + *done);
    const ssize_t n = flags == 0
                          ? pread(fd(), piece.iov_base, piece.iov_len, position)
                          : preadv2(fd(), &piece, 1, position, flags);
    if (n > 0) {
      *done += static_cast<size_t>(n);
    } else if (n == 0) {
      return StorageError::Truncated();
    } else if (errno != EINTR) {
      const int error = errno;
      ForgetFailedPages(offset + *done);
      return error;
    }
  }
  return 0;
}

// A page that couldn't be read stays in the page cache without its data, and
// IsCached() would count it. A simple reply would then start with success, and
// the connection would have to end in place of an error reply.
void StoredExport::ForgetFailedPages(uint64_t offset) {
  const uint64_t begin = offset / kMaxFolioBytes * kMaxFolioBytes;
  Drop(begin, kMaxFolioBytes);
}

void StoredExport::Drop(uint64_t offset, uint64_t length) {
  // The kernel drops whole pages only.
  const uint64_t page = PageBytes();
  const uint64_t begin = offset / page * page;
  const uint64_t end = (offset + length + page - 1) / page * page;
  posix_fadvise(fd(), static_cast<off_t>(begin),
                static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
}

int StoredExport::Write(uint64_t offset, absl::Span<const char> data,
                        bool durable) {
  return durable && !facts().temporary ? WriteDurably(offset, data)
                                       : WriteToCache(offset, data);
}

int StoredExport::WriteToCache(uint64_t offset, absl::Span<const char> data) {
  while (!data.empty()) {
    const iovec piece = {const_cast<char*>(data.data()), data.size()};
    const ssize_t n =
        write_flags_ == 0
            ? pwrite(fd(), data.data(), data.size(), static_cast<off_t>(offset))
            : pwritev2(fd(), &piece, 1, static_cast<off_t>(offset),
                       write_flags_);
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    offset += static_cast<uint64_t>(n);
    data.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

int StoredExport::WriteDurably(uint64_t offset, absl::Span<const char> data) {
  bool supported = true;
  const auto write = [&] {
    while (!data.empty()) {
      const iovec piece = {const_cast<char*>(data.data()), data.size()};
      const ssize_t n = pwritev2(fd(), &piece, 1, static_cast<off_t>(offset),
                                 RWF_DSYNC | write_flags_);
      if (n < 0) {
        if (errno == EINTR) continue;
        supported = errno != EOPNOTSUPP;
        return errno;
      }
      offset += static_cast<uint64_t>(n);
      data.remove_prefix(static_cast<size_t>(n));
    }
    return 0;
  };
  // ENOSPC and similar errors are no loss, unless the same bytes can then be
  // written without RWF_DSYNC: the storage then failed to keep earlier data.
  const auto is_loss = [&](int error) {
    return error == EIO ||
           (error != EOPNOTSUPP && WriteToCache(offset, data) == 0);
  };
  const int error = DurableCall(write, is_loss);
  if (supported) return error;
  const int cache_error = WriteToCache(offset, data);
  return cache_error != 0 ? cache_error : Sync();
}

int StoredExport::DurableCall(absl::FunctionRef<int()> call,
                              absl::FunctionRef<bool(int)> is_loss) {
  CallsUnderWay::Call self;
  durable_calls_.Begin(self);
  const int error = call();
  if (error != 0 && is_loss(error)) {
    flush_error_.store(error, std::memory_order_relaxed);
  }
  durable_calls_.End(self);
  if (error != 0) return error;
  durable_calls_.WaitForOverlapping(self);
  return flush_error_.load(std::memory_order_relaxed);
}

bool StoredExport::WriteWouldWait(uint64_t offset, uint64_t length) {
  if (writes_busy() || reads_bypass_cache_) return true;
  const auto is_cold = [&](uint64_t edge) {
    // The kernel doesn't read a block beyond the end of the file either: a
    // write there has nothing to wait for.
    return edge % PageBytes() != 0 && edge < facts().size_bytes &&
           !IsCached(edge, 1);
  };
  return is_cold(offset) || is_cold(offset + length);
}

int StoredExport::Sync() {
  if (const int error = flush_error_.load(std::memory_order_relaxed)) {
    return error;
  }
  return DurableCall(
      [&] {
        while (fdatasync(fd()) != 0) {
          if (errno == EINTR) continue;
          // A read-only file system (erofs, squashfs) has no fsync, and no
          // dirty pages.
          const bool has_none = errno == EINVAL || errno == EROFS;
          return has_none && facts().read_only ? 0 : errno;
        }
        return 0;
      },
      [](int) { return true; });
}

int StoredExport::WriteZeroes(uint64_t offset, uint64_t length,
                              const std::atomic<bool>* cut_short) {
  while (length > 0) {
    if (cut_short != nullptr && cut_short->load(std::memory_order_relaxed)) {
      return ECANCELED;
    }
    const size_t part = std::min<uint64_t>(length, kWrittenZeroesBytes);
    if (const int error = Write(offset, absl::MakeConstSpan(kZeroes, part),
                                /*durable=*/false)) {
      return error;
    }
    offset += part;
    length -= part;
  }
  return 0;
}

int StoredExport::WriteZeroesAround(Range whole, uint64_t offset,
                                    uint64_t length) {
  // Less than two blocks: not worth an end.
  if (const int error = WriteZeroes(offset, whole.offset - offset, nullptr)) {
    return error;
  }
  return WriteZeroes(whole.end(), offset + length - whole.end(), nullptr);
}

int StoredExport::Prefetch(uint64_t offset, uint64_t length) {
  // The length 0 would mean "to the end of the file".
  if (length == 0 || reads_bypass_cache_) return 0;
  const int error =
      posix_fadvise(fd(), static_cast<off_t>(offset),
                    static_cast<off_t>(length), POSIX_FADV_WILLNEED);
  // A file system may not support this hint.
  return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP ? 0 : error;
}

void StoredExport::BeginWriteBack(uint64_t offset, uint64_t length) {
  // Without a flag to wait, it leaves the kernel's report of a lost write to
  // those that return it.
  sync_file_range(fd(), static_cast<off_t>(offset), static_cast<off_t>(length),
                  SYNC_FILE_RANGE_WRITE);
}

int StoredExport::WriteBack(uint64_t offset, uint64_t length) {
  // sync_file_range() consumes the kernel's report of a lost write.
  return DurableCall(
      [&] {
        return sync_file_range(
                   fd(), static_cast<off_t>(offset), static_cast<off_t>(length),
                   SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                       SYNC_FILE_RANGE_WAIT_AFTER) == 0
                   ? 0
                   : errno;
      },
      [](int error) {
        return error == EIO || error == ENOSPC || error == EDQUOT;
      });
}

bool StoredExport::MakeClean(uint64_t offset, uint64_t length) {
  if (const std::optional<bool> clean = page_cache_.IsClean(offset, length)) {
    return *clean;
  }
  finding_extents_may_sync_.store(true, std::memory_order_relaxed);
  return WriteBack(offset, length) == 0;
}

int StoredExport::FindExtents(uint64_t offset, uint64_t length, size_t limit,
                              const std::atomic<bool>* cut_short,
                              Extents* out) {
  // Block devices have no holes, and lseek() on one waits for the reads in
  // progress and delays new ones. On a shared description, it would move the
  // offset of others.
  if (facts().block_device || shares_description()) {
    out->push_back({facts().size_bytes - offset, false});
    return 0;
  }
  const ExtentSource source = ExtentSourceOf(fd());
  // Of a FUSE file system, only the type of the mount tells.
  const bool has_no_holes =
      source == ExtentSource::kNoHoles ||
      facts().storage.promises->holes == ExtentSource::kNoHoles;
  // Looking for holes isn't worth a sync that nothing else needs.
  if (has_no_holes ||
      (source == ExtentSource::kSeekAfterSync && facts().temporary)) {
    out->push_back({facts().size_bytes - offset, false});
    return 0;
  }
  if (source == ExtentSource::kSeekAfterSync) {
    finding_extents_may_sync_.store(true, std::memory_order_relaxed);
    if (Sync() != 0) {
      // Without the sync, the holes of the file system aren't certain.
      out->push_back({facts().size_bytes - offset, false});
      return 0;
    }
  }
  return nbdinetd::FindExtents(
      fd(), {offset, offset + length, facts().size_bytes, limit, cut_short},
      source,
      [this](uint64_t from, uint64_t bytes) { return MakeClean(from, bytes); },
      out);
}

}  // namespace nbdinetd
