#include "export/direct.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/limits.h"
#include "base/page_size.h"
#include "export/blocks.h"
#include "export/direct_alignment.h"

namespace nbdinetd {
namespace {

static_assert(kBounceBytes % kMaxDirectAlignment == 0);

constexpr size_t kZeroesBytes = 64 << 10;
alignas(4096) const char kZeroes[kZeroesBytes] = {};

struct Free {
  void operator()(char* buffer) const { std::free(buffer); }
};

// The buffer of this thread, kBounceBytes long; nullptr without memory.
char* ThreadBuffer() {
  thread_local const std::unique_ptr<char, Free> buffer(static_cast<char*>(
      std::aligned_alloc(kMaxDirectAlignment, kBounceBytes)));
  return buffer.get();
}

uint64_t RoundDown(uint64_t bytes, uint64_t unit) {
  return bytes / unit * unit;
}
uint64_t RoundUp(uint64_t bytes, uint64_t unit) {
  return RoundDown(bytes + unit - 1, unit);
}

// The name of the file system that has the file, for a message.
std::string FileSystemOf(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st) != 0) return "its file system";
  const auto type = static_cast<uint64_t>(st.f_type);
  switch (type) {
    case TMPFS_MAGIC:
      return "tmpfs";
    case RAMFS_MAGIC:
      return "ramfs";
    case OVERLAYFS_SUPER_MAGIC:
      return "overlayfs";
    case SQUASHFS_MAGIC:
      return "squashfs";
    case EXT4_SUPER_MAGIC:
      return "ext4";
    default:
      return absl::StrCat("its file system (type 0x", absl::Hex(type), ")");
  }
}

absl::Status NotDirect(const StoredExport& base) {
  return absl::UnavailableError(absl::StrCat(
      "failed to open ", Quoted(base.path()),
      " with --cache=none: ", FileSystemOf(base.lock_fd()),
      " can't read it beside the page cache (O_DIRECT); use --cache=drop, or "
      "another file system"));
}

bool IsSameFile(int one, int other) {
  struct stat a, b;
  return FileStatus(one, &a) == 0 && FileStatus(other, &b) == 0 &&
         a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_rdev == b.st_rdev;
}

}  // namespace

absl::Status Direct::OpenError(const StoredExport& base, int error_number) {
  if (error_number == EINVAL || error_number == EOPNOTSUPP) {
    return NotDirect(base);
  }
  return ErrnoStatus(error_number,
                     absl::StrCat("failed to open ", Quoted(base.path()),
                                  " with O_DIRECT, for --cache=none"),
                     absl::StatusCode::kUnavailable);
}

absl::StatusOr<DirectAlignment> Direct::FindAlignment(const StoredExport& base,
                                                      int fd) {
  if (!IsSameFile(base.lock_fd(), fd)) {
    return absl::UnavailableError(
        absl::StrCat("failed to open ", Quoted(base.path()),
                     ": it was replaced at the same time"));
  }
  const std::optional<DirectAlignment> alignment = FindDirectAlignment(fd);
  if (!alignment.has_value()) return NotDirect(base);
  return *alignment;
}

std::unique_ptr<Export> Direct::Create(std::unique_ptr<StoredExport> base,
                                       UniqueFd fd, DirectAlignment alignment) {
  Facts facts = base->facts();
  facts.block_sizes.preferred = std::max(
      facts.block_sizes.preferred, static_cast<uint32_t>(alignment.block));
  facts.direct_block_bytes = static_cast<uint32_t>(alignment.block);
  return std::unique_ptr<Export>(
      new Direct(std::move(base), facts, std::move(fd), alignment));
}

Direct::Direct(std::unique_ptr<StoredExport> base, Facts facts, UniqueFd fd,
               DirectAlignment alignment)
    : Layer(std::move(base), facts),
      stored_(static_cast<StoredExport&>(this->base())),
      fd_(std::move(fd)),
      alignment_(alignment),
      locks_(fd_.get()) {}

Range Direct::LockedRange(uint64_t offset, uint64_t length) const {
  if (!facts().block_device) return {offset, 0};
  const uint64_t begin = RoundDown(offset, alignment_.block);
  return {begin, RoundUp(offset + length, alignment_.block) - begin};
}

RangeLocks::Kind Direct::LockKind(uint64_t offset, uint64_t length) const {
  return alignment_.Fits(offset) && alignment_.Fits(length)
             ? RangeLocks::Kind::kShared
             : RangeLocks::Kind::kExclusive;
}

StorageError Direct::Read(uint64_t offset, absl::Span<char> out, size_t* done) {
  *done = 0;
  while (*done < out.size()) {
    const uint64_t at = offset + *done;
    char* const to = out.data() + *done;
    const size_t left = out.size() - *done;
    const bool in_place = alignment_.Fits(at, to) && left >= alignment_.block;
    char* const buffer = in_place ? to : ThreadBuffer();
    if (buffer == nullptr) return ENOMEM;
    const uint64_t skipped = at % alignment_.block;
    const uint64_t length =
        in_place ? RoundDown(left, alignment_.block)
                 : std::min<uint64_t>(RoundUp(skipped + left, alignment_.block),
                                      kBounceBytes);
    const ssize_t n =
        pread(fd_.get(), buffer, length, static_cast<off_t>(at - skipped));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    const auto read = static_cast<uint64_t>(n);
    if (read <= skipped) return StorageError::Truncated();
    const size_t part = std::min<uint64_t>(read - skipped, left);
    if (!in_place) std::memcpy(to, buffer + skipped, part);
    *done += part;
    // The file ends inside a block, from which no further read could start.
    if (!alignment_.Fits(read) && part < left) {
      return StorageError::Truncated();
    }
  }
  return 0;
}

int Direct::Write(uint64_t offset, absl::Span<const char> data, bool durable) {
  const RangeLocks::Lock lock(locks_, LockedRange(offset, data.size()),
                              LockKind(offset, data.size()));
  if (lock.error() != 0) return lock.error();
  return WriteLocked(offset, data, durable);
}

int Direct::WriteLocked(uint64_t offset, absl::Span<const char> data,
                        bool durable) {
  const Range whole = WholeBlocks(offset, data.size(), alignment_.block);
  const size_t before = whole.offset - offset;
  const bool has_parts = whole.length < data.size();
  if (const int error = WritePart(offset, data.first(before))) return error;
  if (const int error =
          WriteBlocks(whole.offset, data.subspan(before, whole.length),
                      durable && !has_parts)) {
    return error;
  }
  if (const int error =
          WritePart(whole.end(), data.subspan(before + whole.length))) {
    return error;
  }
  return durable && has_parts ? Flush() : 0;
}

int Direct::WriteBlocks(uint64_t offset, absl::Span<const char> data,
                        bool durable) {
  int flags = durable ? RWF_DSYNC : 0;
  while (!data.empty()) {
    iovec piece = {const_cast<char*>(data.data()), data.size()};
    if (!alignment_.Fits(offset, data.data())) {
      piece = {ThreadBuffer(), std::min(data.size(), kBounceBytes)};
      if (piece.iov_base == nullptr) return ENOMEM;
      std::memcpy(piece.iov_base, data.data(), piece.iov_len);
    }
    const auto position = static_cast<off_t>(offset);
    const ssize_t n =
        flags == 0 ? pwrite(fd_.get(), piece.iov_base, piece.iov_len, position)
                   : pwritev2(fd_.get(), &piece, 1, position, flags);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EOPNOTSUPP && flags != 0) {
      flags = 0;
      continue;
    }
    if (n < 0) return errno;
    // A write that ends inside a block is continued from the block's begin.
    const uint64_t written =
        RoundDown(static_cast<uint64_t>(n), alignment_.block);
    if (written == 0) return EIO;
    offset += written;
    data.remove_prefix(written);
  }
  return durable && flags == 0 ? Flush() : 0;
}

int Direct::WritePart(uint64_t offset, absl::Span<const char> data) {
  if (data.empty()) return 0;
  return facts().block_device ? WritePartOfDevice(offset, data)
                              : WritePartOfFile(offset, data);
}

int Direct::WritePartOfFile(uint64_t offset, absl::Span<const char> data) {
  if (const int error = Layer::Write(offset, data, /*durable=*/false)) {
    return error;
  }
  const int error = stored_.WriteBack(offset, data.size());
  if (error == 0) stored_.Drop(offset, data.size());
  return error;
}

int Direct::WritePartOfDevice(uint64_t offset, absl::Span<const char> data) {
  char* const buffer = ThreadBuffer();
  if (buffer == nullptr) return ENOMEM;
  const uint64_t skipped = offset % alignment_.block;
  size_t read;
  const absl::Span<char> block(buffer, alignment_.block);
  if (const StorageError error = Read(offset - skipped, block, &read)) {
    return error.number;
  }
  std::memcpy(buffer + skipped, data.data(), data.size());
  return WriteBlocks(offset - skipped, block, /*durable=*/false);
}

int Direct::Trim(uint64_t offset, uint64_t length) {
  const RangeLocks::Lock lock(locks_, LockedRange(offset, length),
                              RangeLocks::Kind::kShared);
  return lock.error() != 0 ? lock.error() : Layer::Trim(offset, length);
}

int Direct::WriteZeroes(uint64_t offset, uint64_t length,
                        const std::atomic<bool>* cut_short) {
  while (length > 0) {
    if (cut_short != nullptr && cut_short->load(std::memory_order_relaxed)) {
      return ECANCELED;
    }
    const size_t part = std::min<uint64_t>(length, kZeroesBytes);
    if (const int error = Write(offset, absl::MakeConstSpan(kZeroes, part),
                                /*durable=*/false)) {
      return error;
    }
    offset += part;
    length -= part;
  }
  return 0;
}

int Direct::Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
                 const std::atomic<bool>* cut_short) {
  // Parts of pages would be zeroed in the page cache.
  const Range whole =
      WholeBlocks(offset, length, std::max(PageBytes(), alignment_.block));
  if (whole.length > 0) {
    // A device has a command that writes zeroes. On a file, the export below
    // would write them to the page cache.
    const Speed below = facts().block_device ? speed : Speed::kFastOnly;
    int error;
    {
      const RangeLocks::Lock lock(locks_,
                                  LockedRange(whole.offset, whole.length),
                                  RangeLocks::Kind::kShared);
      error = lock.error() != 0 ? lock.error()
                                : Layer::Zero(whole.offset, whole.length, hole,
                                              below, cut_short);
    }
    if (error == EOPNOTSUPP && speed == Speed::kAny) {
      error = WriteZeroes(whole.offset, whole.length, cut_short);
    }
    if (error != 0) return error;
  }
  if (const int error = WriteZeroes(offset, whole.offset - offset, nullptr)) {
    return error;
  }
  return WriteZeroes(whole.end(), offset + length - whole.end(), nullptr);
}

}  // namespace nbdinetd
