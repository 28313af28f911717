#include "ctl/copy_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/unique_fd.h"
#include "export/base_facts.h"
#include "export/exclusive.h"
#include "export/export.h"
#include "export/kept_copy.h"
#include "export/kept_map.h"
#include "export/kept_name.h"
#include "export/open.h"

namespace nbdinetd::ctl {
namespace {

// What is read, compared and written at once.
constexpr uint64_t kPieceBytes = 1 << 20;
// Of that, what is left out of a new file if it is zero.
constexpr uint64_t kHoleBytes = 4096;

absl::Status Failed(const CopyFile& copy, absl::string_view what, int error) {
  return ErrnoStatus(error,
                     absl::StrCat(Quoted(copy.path()), ": failed to ", what));
}

absl::Status Refused(const CopyFile& copy, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat(Quoted(copy.path()), " ", why));
}

// The base of a copy as it was served: a part of a file, perhaps with zeroes
// behind it. The header's path may be any: opening a watchdog, a tape or a FIFO
// does something, so that the kind of file is looked at before.
absl::StatusOr<std::unique_ptr<Export>> OpenBase(const KeptHeader& header) {
  const std::string& path = header.base_path;
  if (path.empty() || path[0] != '/') {
    return absl::FailedPreconditionError(
        absl::StrCat("the file of the base ", Quoted(path),
                     " isn't known: it was handed over"));
  }
  if (header.base_bytes == 0 && header.size_bytes != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the place of the base in ", Quoted(path), " isn't known"));
  }
  const UniqueFd place(open(path.c_str(), O_PATH | O_CLOEXEC));
  struct stat st;
  if (!place.valid() || FileStatus(place.get(), &st) != 0) {
    return ErrnoStatus(errno,
                       absl::StrCat("failed to open the base ", Quoted(path)),
                       absl::StatusCode::kFailedPrecondition);
  }
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the base ", Quoted(path),
                     " is neither a regular file nor a block device, and "
                     "isn't opened"));
  }
  ExportSettings settings;
  settings.read_only = true;
  settings.part = Part{header.base_offset, header.base_bytes};
  if (header.base_bytes != header.size_bytes) {
    settings.size = SizeChange{SizeChange::Kind::kExactly, header.size_bytes};
  }
  // This leads to the file that was looked at, whatever has its path now.
  const std::string link = absl::StrCat("/proc/self/fd/", place.get());
  std::string read_only_reason;
  return OpenExportWith([&](int flags) { return open(link.c_str(), flags); },
                        path, settings, &read_only_reason);
}

// What of the base has changed; empty if nothing has.
absl::StatusOr<std::string> ChangesOfBase(const KeptHeader& header) {
  const absl::StatusOr<std::unique_ptr<Export>> base = OpenBase(header);
  if (!base.ok()) return base.status();
  const absl::StatusOr<BaseFacts> now = ReadBaseFacts(**base);
  if (!now.ok()) return now.status();
  return ChangesOf(header.base, *now);
}

absl::StatusOr<UniqueFd> Lock(const CopyFile& copy) {
  UniqueFd fd(
      open(copy.path().c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return Failed(copy, "open it", errno);
  const absl::StatusOr<bool> locked = ExclusiveLock(fd.get()).Try();
  if (!locked.ok()) return locked.status();
  struct stat st;
  if (FileStatus(fd.get(), &st) != 0) return Failed(copy, "stat it", errno);
  if (*locked && st.st_nlink != 0) return fd;
  const pid_t holder = ExclusiveLock::HolderOf(fd.get()).value_or(0);
  return Refused(
      copy, absl::StrCat("is in use",
                         holder > 0 ? absl::StrCat(" by process ", holder) : "",
                         ": 'nbdinetctl disconnect' ends its "
                         "connection"));
}

// Which blocks the copy has. nullptr for a clone, which has all.
absl::StatusOr<std::unique_ptr<KeptMap>> MapOf(const CopyFile& copy,
                                               LockedCopy& locked) {
  if (locked.found.header.block_bytes == 0) return nullptr;
  int error = 0;
  std::unique_ptr<KeptMap> map =
      OpenKeptMap(locked.fd.get(), locked.found, ReadBootId(), &error);
  if (map == nullptr) return Failed(copy, "read its map", error);
  return map;
}

// Calls `visit` for each run of bytes that the copy has, until that returns an
// error.
template <typename Visit>
absl::Status ForEachRun(const KeptHeader& header, const KeptMap* map,
                        Visit visit) {
  if (map == nullptr) return visit(0, header.size_bytes);
  absl::Status status;
  map->ForEachRun([&](uint64_t begin, uint64_t end) {
    if (!status.ok()) return;
    status = visit(begin * header.block_bytes,
                   std::min(end * header.block_bytes, header.size_bytes));
  });
  return status;
}

bool IsZero(const char* bytes, uint64_t size) {
  return size == 0 ||
         (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0);
}

// Writes bytes into a new, empty file, and leaves holes for zeroes.
int WriteSparsely(int fd, uint64_t offset, absl::string_view bytes) {
  while (!bytes.empty()) {
    const size_t part = std::min<size_t>(bytes.size(), kHoleBytes);
    if (!IsZero(bytes.data(), part)) {
      if (const int error = WriteAll(fd, offset, bytes.substr(0, part))) {
        return error;
      }
    }
    offset += part;
    bytes.remove_prefix(part);
  }
  return 0;
}

// Shares `length` bytes of a file. False where that isn't possible.
bool Share(int from, uint64_t from_offset, uint64_t length, int to) {
  file_clone_range range = {};
  range.src_fd = from;
  range.src_offset = from_offset;
  range.src_length = length;
  return length != 0 && ioctl(to, FICLONERANGE, &range) == 0;
}

// Writes all of the image into the empty file `to`.
absl::Status WriteImage(const CopyFile& copy, LockedCopy& locked, int to) {
  const KeptHeader header = locked.found.header;
  if (ftruncate(to, static_cast<off_t>(header.size_bytes)) != 0) {
    return Failed(copy, "set the size of the new image", errno);
  }
  const bool is_clone = header.block_bytes == 0;
  if (is_clone && Share(locked.fd.get(), 0, header.size_bytes, to)) {
    return absl::OkStatus();
  }
  const absl::StatusOr<std::unique_ptr<KeptMap>> map = MapOf(copy, locked);
  if (!map.ok()) return map.status();
  std::vector<char> piece(kPieceBytes);
  const int from = locked.fd.get();
  if (!is_clone) {
    absl::StatusOr<std::unique_ptr<Export>> base = OpenBase(header);
    if (!base.ok()) return base.status();
    const bool shared =
        header.base_bytes == header.size_bytes &&
        Share((*base)->lock_fd(), header.base_offset, header.size_bytes, to);
    for (uint64_t at = 0; at < header.size_bytes && !shared;) {
      const uint64_t size = std::min(kPieceBytes, header.size_bytes - at);
      size_t done = 0;
      const StorageError error =
          (*base)->Read(at, absl::MakeSpan(piece.data(), size), &done);
      if (error) return Failed(copy, "read its base", error.number);
      if (const int failed = WriteSparsely(to, at, {piece.data(), size})) {
        return Failed(copy, "write the new image", failed);
      }
      at += size;
    }
  }
  return ForEachRun(header, map->get(), [&](uint64_t begin, uint64_t end) {
    for (uint64_t at = begin; at < end;) {
      const uint64_t size = std::min(kPieceBytes, end - at);
      int error = ReadAll(from, at, piece.data(), size);
      // Zeroes of the copy may stand over other bytes of the base.
      if (error == 0) {
        error = is_clone ? WriteSparsely(to, at, {piece.data(), size})
                         : WriteAll(to, at, {piece.data(), size});
      }
      if (error != 0) return Failed(copy, "write the new image", error);
      at += size;
    }
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<std::vector<CopyFile>> CopiesIn(const std::string& directory) {
  DIR* const stream = opendir(directory.c_str());
  if (stream == nullptr) {
    return ErrnoStatus(
        errno, absl::StrCat("failed to read ", Quoted(directory)),
        errno == ENOENT || errno == ENOTDIR ? absl::StatusCode::kNotFound
                                            : absl::StatusCode::kInternal);
  }
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream)) {
    if (IsKeptName(entry->d_name)) names.emplace_back(entry->d_name);
  }
  closedir(stream);
  std::sort(names.begin(), names.end());
  std::vector<CopyFile> copies;
  copies.reserve(names.size());
  for (std::string& name : names) {
    copies.push_back({.directory = directory, .name = std::move(name)});
  }
  return copies;
}

void LookAt(CopyFile& copy) {
  const UniqueFd fd(open(copy.path().c_str(),
                         O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat st;
  if (!fd.valid() || FileStatus(fd.get(), &st) != 0) {
    copy.state = "damaged";
    copy.reason = ErrnoText(errno);
    return;
  }
  copy.stored_bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  copy.last_used = st.st_mtim.tv_sec;
  absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
  if (!found.ok()) {
    copy.state = "damaged";
    copy.reason = std::string(found.status().message());
    return;
  }
  copy.header = std::move(found->header);
  copy.holder = ExclusiveLock::HolderOf(fd.get());
  if (copy.header->merge.has_value()) {
    copy.state = "merging";
    if (const int error = copy.header->lost_error) {
      copy.reason = absl::StrCat(
          "a merge was cut short, and can't be repeated: the storage has lost "
          "something that was written: ",
          ErrnoText(error));
    } else if (!copy.holder.has_value()) {
      copy.reason = "a merge was cut short: repeat it";
    }
    return;
  }
  if (const int error = copy.header->lost_error) {
    copy.state = "damaged";
    copy.reason = absl::StrCat(
        "the storage has lost something that was written: ", ErrnoText(error));
    return;
  }
  copy.state = copy.holder.has_value() ? "in use" : "kept";
  const absl::StatusOr<std::string> changes = ChangesOfBase(*copy.header);
  if (!changes.ok()) {
    copy.reason = std::string(changes.status().message());
  } else if (!changes->empty()) {
    copy.state = "stale";
    copy.reason = absl::StrCat("its base has changed: ", *changes);
  }
}

absl::StatusOr<LockedCopy> LockCopy(const CopyFile& copy) {
  absl::StatusOr<UniqueFd> fd = Lock(copy);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<FoundHeader> found = ReadHeader(fd->get());
  if (!found.ok()) return Refused(copy, found.status().message());
  return LockedCopy{*std::move(fd), *std::move(found)};
}

absl::Status DeleteCopy(const CopyFile& copy, int fd) {
  // The directory is the connections' to write to: the name may be another
  // file's by now.
  struct stat ours, named;
  if (FileStatus(fd, &ours) != 0 || fstatat(AT_FDCWD, copy.path().c_str(),
                                            &named, AT_SYMLINK_NOFOLLOW) != 0) {
    return Failed(copy, "delete it", errno);
  }
  if (ours.st_dev != named.st_dev || ours.st_ino != named.st_ino) {
    return Refused(copy, "isn't deleted: another file has its name now");
  }
  if (unlink(copy.path().c_str()) != 0) {
    return Failed(copy, "delete it", errno);
  }
  const UniqueFd directory(
      open(copy.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // A file system without this has nothing to wait for.
  if (directory.valid() && fsync(directory.get()) != 0 && errno != EINVAL) {
    return Failed(copy, "make its deletion durable", errno);
  }
  return absl::OkStatus();
}

absl::Status DiscardCopy(const CopyFile& copy) {
  const absl::StatusOr<UniqueFd> locked = Lock(copy);
  return locked.ok() ? DeleteCopy(copy, locked->get()) : locked.status();
}

absl::Status ExportCopy(const CopyFile& copy, const std::string& path,
                        std::string* warning) {
  absl::StatusOr<LockedCopy> locked = LockCopy(copy);
  if (!locked.ok()) return locked.status();
  const KeptHeader& header = locked->found.header;
  // A clone has all that its client sees.
  if (header.merge.has_value() && header.block_bytes != 0) {
    // The copy, too, has the bytes that the merge has changed.
    *warning =
        "a merge has begun to change the base: changes by others can't be told "
        "from it";
  } else if (header.block_bytes != 0) {
    const absl::StatusOr<std::string> changes = ChangesOfBase(header);
    if (!changes.ok()) return changes.status();
    if (!changes->empty()) {
      *warning = absl::StrCat(
          "the base has changed (", *changes,
          "): what the client hasn't written is what the base has now");
    }
  }
  if (const int error = header.lost_error) {
    absl::StrAppend(
        warning, warning->empty() ? "" : "; ",
        "the storage has lost something that the client had written (",
        ErrnoText(error), ")");
  }
  const UniqueFd to(
      open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!to.valid()) {
    return ErrnoStatus(errno, absl::StrCat("failed to make ", Quoted(path)),
                       errno == EEXIST ? absl::StatusCode::kAlreadyExists
                                       : absl::StatusCode::kInternal);
  }
  absl::Status status = WriteImage(copy, *locked, to.get());
  if (status.ok() && fsync(to.get()) != 0) {
    status = Failed(copy, "sync the new image", errno);
  }
  if (!status.ok()) unlink(path.c_str());
  return status;
}

}  // namespace nbdinetd::ctl
