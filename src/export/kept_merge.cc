#include "export/kept_merge.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "export/base_facts.h"
#include "export/checksum.h"
#include "export/kept_copy.h"
#include "export/kept_map.h"

namespace nbdinetd {
namespace {

// What is read, compared and written at once; and what of that is compared, or
// becomes a hole, as a whole.
constexpr uint64_t kPieceBytes = 1 << 20;
constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kDigestBytes = 1 << 20;

absl::Status Failed(absl::string_view what, int error) {
  return ErrnoStatus(error, absl::StrCat("failed to ", what),
                     absl::StatusCode::kUnavailable);
}

bool IsZero(absl::Span<const char> bytes) {
  return bytes.empty() ||
         (bytes[0] == 0 &&
          std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

absl::Status ReadBase(Export& base, uint64_t offset, absl::Span<char> out) {
  size_t done = 0;
  const StorageError error = base.Read(offset, out, &done);
  return error ? Failed("read the base", error.number) : absl::OkStatus();
}

// 0 where the file system, or a block device, doesn't have it.
uint64_t GenerationOf(int fd) {
  // The kernel writes an int, whatever the name of the call says.
  uint64_t memory = 0;
  if (ioctl(fd, FS_IOC_GETVERSION, &memory) != 0) return 0;
  unsigned number = 0;
  std::memcpy(&number, &memory, sizeof(number));
  return uint64_t{1} << 32 | number;
}

class Merge {
 public:
  Merge(int fd, FoundHeader& found, Export& base, KeptMap* map)
      : fd_(fd), found_(found), base_(base), map_(map) {}

  // What the header is to remember; see kept_merge.h.
  absl::StatusOr<KeptHeader::Merge> Remember();
  // Reads all of the copy.
  absl::Status TryToRead();
  // Says durably that the merge has begun.
  absl::Status Begin(const KeptHeader::Merge& merge);
  // Changes the time of the base durably: other copies of it are stale before
  // any byte is another.
  absl::Status Touch();
  // Writes all of the copy into the base. `compares`: the page cache of the
  // base can be believed.
  absl::Status Write(bool compares);
  // Makes the time that the base now has durable, and another than before.
  absl::Status SettleTime();

 private:
  uint64_t size() const { return found_.header.size_bytes; }
  bool is_clone() const { return map_ == nullptr; }

  // Calls `visit` for pieces of what the copy has, from `begin` to before
  // `end`, until that returns an error.
  template <typename Visit>
  absl::Status ForEachPiece(uint64_t begin, uint64_t end, Visit visit);
  // Of what the client sees.
  absl::StatusOr<uint64_t> DigestOf(uint64_t offset, uint64_t length);
  absl::Status WritePiece(uint64_t offset, absl::Span<const char> bytes,
                          bool compares);
  // Writes one kind of bytes: zeroes, or others.
  absl::Status WriteRun(uint64_t offset, absl::Span<const char> bytes,
                        bool zero);

  const int fd_;
  FoundHeader& found_;
  Export& base_;
  KeptMap* const map_;  // nullptr: a clone, which has all
  std::vector<char> theirs_;
  uint64_t time_before_ = 0;  // of the base's last change
};

template <typename Visit>
absl::Status Merge::ForEachPiece(uint64_t begin, uint64_t end, Visit visit) {
  std::vector<char> piece(kPieceBytes);
  absl::Status status;
  const auto visit_run = [&](uint64_t from, uint64_t to) {
    from = std::max(from, begin);
    to = std::min(to, end);
    while (status.ok() && from < to) {
      const uint64_t length = std::min(kPieceBytes, to - from);
      const absl::Span<char> bytes = absl::MakeSpan(piece.data(), length);
      if (const int error = ReadAll(fd_, from, bytes.data(), length)) {
        status = Failed("read the copy", error);
      } else {
        status = visit(from, bytes);
      }
      from += length;
    }
  };
  if (is_clone()) {
    visit_run(0, size());
  } else {
    const uint64_t block = found_.header.block_bytes;
    map_->ForEachRun([&](uint64_t first, uint64_t last) {
      visit_run(first * block, std::min(last * block, size()));
    });
  }
  return status;
}

absl::StatusOr<uint64_t> Merge::DigestOf(uint64_t offset, uint64_t length) {
  std::vector<char> bytes(length);
  uint64_t done = 0;
  // The base is read only where the copy has nothing: what it couldn't store of
  // an earlier merge may be unreadable until it is written again.
  const auto read_base_to = [&](uint64_t end) {
    return end == done || is_clone()
               ? absl::OkStatus()
               : ReadBase(base_, offset + done,
                          absl::MakeSpan(bytes).subspan(done, end - done));
  };
  absl::Status status = ForEachPiece(
      offset, offset + length, [&](uint64_t at, absl::Span<const char> part) {
        const uint64_t begin = at - offset;
        absl::Status read = read_base_to(begin);
        std::copy(part.begin(), part.end(),
                  bytes.begin() + static_cast<ptrdiff_t>(begin));
        done = begin + part.size();
        return read;
      });
  if (status.ok()) status = read_base_to(length);
  if (!status.ok()) return status;
  return Checksum({bytes.data(), bytes.size()});
}

absl::StatusOr<KeptHeader::Merge> Merge::Remember() {
  KeptHeader::Merge merge;
  // Also the size of a block device.
  const off_t end = lseek(base_.lock_fd(), 0, SEEK_END);
  if (end < 0) return Failed("find the size of the base", errno);
  merge.file_bytes = static_cast<uint64_t>(end);
  merge.generation = GenerationOf(base_.lock_fd());
  const uint64_t length = std::min(size(), kDigestBytes);
  absl::StatusOr<uint64_t> digest = DigestOf(0, length);
  if (!digest.ok()) return digest.status();
  merge.first_digest = *digest;
  digest = DigestOf(size() - length, length);
  if (!digest.ok()) return digest.status();
  merge.last_digest = *digest;
  return merge;
}

absl::Status Merge::TryToRead() {
  return ForEachPiece(0, size(), [](uint64_t, absl::Span<const char>) {
    return absl::OkStatus();
  });
}

absl::Status Merge::Begin(const KeptHeader::Merge& merge) {
  // After a loss of power, the durable map tells which blocks there are. What
  // this finds to be lost, no later merge would.
  const auto sync = [this] { return SyncCopy(fd_, found_); };
  int error = is_clone() ? sync() : map_->Flush(sync);
  FoundHeader marked = found_;
  marked.header.merge = merge;
  // Twice: no loss of one slot brings back a header without it.
  for (int slot = 0; slot < 2 && error == 0; ++slot) {
    error = ReplaceHeader(fd_, marked);
  }
  if (error != 0) {
    return Failed("sync and mark the copy, before the base is changed", error);
  }
  found_ = std::move(marked);
  return absl::OkStatus();
}

absl::Status Merge::Touch() {
  if (base_.facts().block_device) return absl::OkStatus();
  struct stat before;
  if (FileStatus(base_.lock_fd(), &before) != 0) {
    return Failed("find the time of the base", errno);
  }
  time_before_ = TimeOfChange(before);
  if (futimens(base_.lock_fd(), nullptr) != 0) {
    return Failed("change the time of the base", errno);
  }
  return SettleTime();
}

absl::Status Merge::SettleTime() {
  if (base_.facts().block_device) return absl::OkStatus();
  const int fd = base_.lock_fd();
  struct stat now;
  if (FileStatus(fd, &now) != 0) {
    return Failed("find the time of the base", errno);
  }
  // Where times are coarse, or the clock has been set, it may be the same.
  const auto is_known = [&] {
    const uint64_t time = TimeOfChange(now);
    return time == time_before_ || time == found_.header.base.mtime_ns;
  };
  bool is_set = false;
  for (; is_known(); is_set = true) now.st_mtim.tv_sec += 2;  // as on FAT
  const timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, now.st_mtim};
  if (is_set && futimens(fd, times) != 0) {
    return Failed("change the time of the base", errno);
  }
  // fdatasync() would leave the time behind.
  return fsync(fd) == 0 ? absl::OkStatus()
                        : Failed("sync the time of the base", errno);
}

absl::Status Merge::Write(bool compares) {
  absl::Status status = ForEachPiece(
      0, size(), [&](uint64_t offset, absl::Span<const char> bytes) {
        return WritePiece(offset, bytes, compares);
      });
  if (!status.ok()) return status;
  if (const int error = base_.Flush()) return Failed("sync the base", error);
  // The next copies remember the time of the last write.
  return SettleTime();
}

absl::Status Merge::WritePiece(uint64_t offset, absl::Span<const char> bytes,
                               bool compares) {
  if (compares) {
    theirs_.resize(bytes.size());
    absl::Status status = ReadBase(base_, offset, absl::MakeSpan(theirs_));
    if (!status.ok()) return status;
  }
  enum class Kind { kSame, kZero, kOther };
  const auto kind_of = [&](size_t at) {
    const auto ours = bytes.subspan(at, kBlockBytes);
    if (compares && std::memcmp(ours.data(), &theirs_[at], ours.size()) == 0) {
      return Kind::kSame;
    }
    return IsZero(ours) ? Kind::kZero : Kind::kOther;
  };
  for (size_t at = 0; at < bytes.size();) {
    const Kind kind = kind_of(at);
    size_t end = at + kBlockBytes;
    while (end < bytes.size() && kind_of(end) == kind) end += kBlockBytes;
    end = std::min(end, bytes.size());
    absl::Status status =
        kind == Kind::kSame ? absl::OkStatus()
                            : WriteRun(offset + at, bytes.subspan(at, end - at),
                                       kind == Kind::kZero);
    if (!status.ok()) return status;
    at = end;
  }
  return absl::OkStatus();
}

absl::Status Merge::WriteRun(uint64_t offset, absl::Span<const char> bytes,
                             bool zero) {
  // A base with holes keeps them.
  const int error =
      zero ? base_.Zero(offset, bytes.size(), Export::Hole::kAllowed,
                        Export::Speed::kAny, nullptr)
           : base_.Write(offset, bytes, /*durable=*/false);
  return error == 0 ? absl::OkStatus() : Failed("write to the base", error);
}

// Whether the copy is whole, and `base` can be written to and has the place
// that the header says.
absl::Status CheckPlace(const KeptHeader& header, const Export& base) {
  const std::string path = Quoted(base.path());
  if (header.lost_error != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the storage has lost something that the client had written (",
        ErrnoText(header.lost_error), ")"));
  }
  if (base.facts().read_only) {
    return absl::FailedPreconditionError(
        absl::StrCat("the base ", path, " can't be written to"));
  }
  if (base.facts().size_bytes != header.size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the base ", path, " has ", base.facts().size_bytes,
                     " bytes, and the copy ", header.size_bytes));
  }
  const Export::Origin place = PlaceOf(base);
  if (place.offset != header.base_offset || place.length != header.base_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the base is another part of ", path, ", from byte ", place.offset,
        ", than the copy is of, from byte ", header.base_offset));
  }
  if (place.length != header.size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the copy is larger than its base ", path,
                     " (--size), and can't be merged: 'nbdinetctl copies "
                     "export' makes a new image of it"));
  }
  return absl::OkStatus();
}

// Whether `base`, which no merge has begun to change, is what it was.
absl::Status CheckUnchanged(const KeptHeader& header, Export& base) {
  const absl::StatusOr<BaseFacts> now = ReadBaseFacts(base);
  if (!now.ok()) return now.status();
  const std::string changes = ChangesOf(header.base, *now);
  if (changes.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the copy is stale: its base ", Quoted(base.path()),
                   " has changed since (", changes, ")"));
}

// Whether `base` is the one that an earlier merge began to change, as far as
// that shows (kept_merge.h).
absl::Status CheckSame(const KeptHeader& header, const KeptHeader::Merge& now,
                       const Export& base) {
  const KeptHeader::Merge& before = *header.merge;
  struct stat st;
  if (FileStatus(base.lock_fd(), &st) != 0) {
    return Failed("find out what the base is", errno);
  }
  const uint64_t inode = S_ISBLK(st.st_mode) ? 0 : st.st_ino;
  const bool is_known = before.generation != 0 && now.generation != 0;
  if (inode == header.base.inode && before.file_bytes == now.file_bytes &&
      (!is_known || before.generation == now.generation) &&
      before.first_digest == now.first_digest &&
      before.last_digest == now.last_digest) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      Quoted(base.path()),
      " isn't the base that an earlier merge began to change, or others have "
      "written to it since; 'nbdinetctl copies' discards the copy or writes it "
      "to an image of its own"));
}

absl::StatusOr<std::unique_ptr<KeptMap>> OpenMap(int fd, FoundHeader& found,
                                                 const std::string& boot_id) {
  if (found.header.block_bytes == 0) return nullptr;
  int error = 0;
  std::unique_ptr<KeptMap> map = OpenKeptMap(fd, found, boot_id, &error);
  if (map == nullptr) return Failed("read the copy's map", error);
  return map;
}

}  // namespace

absl::Status MergeIntoBase(int fd, FoundHeader& found, Export& base,
                           const std::string& boot_id) {
  const KeptHeader& header = found.header;
  absl::Status status = CheckPlace(header, base);
  if (!status.ok()) return status;
  const absl::StatusOr<std::unique_ptr<KeptMap>> map =
      OpenMap(fd, found, boot_id);
  if (!map.ok()) return map.status();
  Merge merge(fd, found, base, map->get());
  const bool is_first = !header.merge.has_value();
  if (is_first) status = CheckUnchanged(header, base);
  if (!status.ok()) return status;
  const absl::StatusOr<KeptHeader::Merge> now = merge.Remember();
  if (!now.ok()) return now.status();
  if (!is_first) status = CheckSame(header, *now, base);
  if (status.ok()) status = merge.TryToRead();
  // Again in a later merge: one slot may have been lost.
  if (status.ok()) status = merge.Begin(header.merge.value_or(*now));
  if (status.ok()) status = merge.Touch();
  if (!status.ok()) return status;
  return merge.Write(/*compares=*/is_first && header.block_bytes == 0);
}

}  // namespace nbdinetd
