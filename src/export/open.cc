#include "export/open.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "export/block_device.h"
#include "export/cache_modes.h"
#include "export/direct.h"
#include "export/direct_alignment.h"
#include "export/file.h"
#include "export/layers.h"
#include "export/slice.h"
#include "export/storage.h"
#include "export/stored_export.h"
#include "partition/partition_table.h"

namespace nbdinetd {
namespace {

// O_NONBLOCK: opening a FIFO must not wait for a writer, or rewind a tape.
constexpr int kOpenFlags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

bool OnlyWritingIsRefused(int error_number) {
  return error_number == EACCES || error_number == EPERM ||
         error_number == EROFS || error_number == ETXTBSY;
}

absl::Status NoInput(const std::string& path, absl::string_view reason) {
  return absl::NotFoundError(
      absl::StrCat("failed to open ", Quoted(path), ": ", reason));
}

Storage StorageWith(const ExportSettings& settings, int fd,
                    const struct stat& st) {
  return WithShared(settings.known_storage.has_value()
                        ? StorageInSandbox(fd, st, *settings.known_storage)
                        : StorageOf(fd, st),
                    settings.shared);
}

// Makes an export of an open file. NotFound when it can't be one.
absl::StatusOr<std::unique_ptr<StoredExport>> StoredExportOf(
    UniqueFd fd, const std::string& path, const ExportSettings& settings,
    std::string* read_only_reason, Export::Sharing sharing) {
  struct stat st;
  if (FileStatus(fd.get(), &st) != 0) return NoInput(path, ErrnoText(errno));
  StoredExport::Opening opening = {.read_only = settings.read_only,
                                   .sharing = sharing};
  if (S_ISREG(st.st_mode)) {
    opening.storage = StorageWith(settings, fd.get(), st);
    return FileExport::Create(path, std::move(fd), st, opening);
  }
  if (S_ISBLK(st.st_mode)) {
    if (!opening.read_only && BlockDeviceExport::IsReadOnly(fd.get())) {
      opening.read_only = true;
      *read_only_reason = "the block device is read-only";
    }
    opening.storage = StorageWith(settings, fd.get(), st);
    return BlockDeviceExport::Create(path, std::move(fd), opening);
  }
  return NoInput(path, S_ISDIR(st.st_mode)
                           ? "it is a directory"
                           : "it is neither a regular file nor a block device");
}

// A file that is open, and how it is opened again with other flags.
struct Source {
  const std::string& path;
  absl::FunctionRef<int(int flags)> open_with;
  Export::Sharing sharing = Export::Sharing::kOwn;
  TableReader* tables = nullptr;  // reads the table of a partition
};

// The file of an export beside the page cache.
struct DirectFile {
  UniqueFd fd;
  DirectAlignment alignment;
};
absl::StatusOr<DirectFile> OpenDirectFile(const StoredExport& stored,
                                          const Source& source) {
  if (stored.shares_description()) {
    return NoInput(source.path,
                   "--cache=none needs a descriptor of its own, and this "
                   "process may not open the file that was handed over anew: "
                   "give it the right to, or use another --cache");
  }
  const int access = stored.lock_fd_is_read_only() ? O_RDONLY : O_RDWR;
  UniqueFd fd(source.open_with(access | O_DIRECT | kOpenFlags));
  if (!fd.valid()) return Direct::OpenError(stored, errno);
  const absl::StatusOr<DirectAlignment> alignment =
      Direct::FindAlignment(stored, fd.get());
  if (!alignment.ok()) return alignment.status();
  return DirectFile{std::move(fd), *alignment};
}

// `stored` beside the page cache.
absl::StatusOr<std::unique_ptr<Export>> OpenDirect(
    std::unique_ptr<StoredExport> stored, const Source& source) {
  absl::StatusOr<DirectFile> file = OpenDirectFile(*stored, source);
  if (!file.ok()) return file.status();
  return Direct::Create(std::move(stored), std::move(file->fd),
                        file->alignment);
}

// Whether other hosts see what clients write only if it passes by the page
// cache. What clients only read stays in it: many machines start from one
// image.
bool NeedsDirect(const Export::Facts& facts) {
  return facts.storage.promises->direct_by_default &&
         facts.storage.served_by == OtherHosts::kYes && !facts.read_only;
}

// `stored` with the use of the page cache that it has without --cache.
std::unique_ptr<Export> WithDefaultCache(std::unique_ptr<StoredExport> stored,
                                         const Source& source) {
  if (!NeedsDirect(stored->facts())) return stored;
  absl::StatusOr<DirectFile> file = OpenDirectFile(*stored, source);
  if (file.ok()) {
    return Direct::Create(std::move(stored), std::move(file->fd),
                          file->alignment);
  }
  Export::Facts facts = stored->facts();
  facts.lacks_direct = true;
  return std::make_unique<Slice>(std::move(stored), 0, facts);
}

// `stored` with its use of the page cache.
absl::StatusOr<std::unique_ptr<Export>> WithCacheMode(
    std::unique_ptr<StoredExport> stored, std::optional<CacheMode> mode,
    const Source& source) {
  if (!mode.has_value()) return WithDefaultCache(std::move(stored), source);
  switch (*mode) {
    case CacheMode::kWriteback:
      break;
    case CacheMode::kWritethrough:
      return std::make_unique<WriteThrough>(std::move(stored));
    case CacheMode::kDrop:
      return std::make_unique<DropBehind>(std::move(stored));
    case CacheMode::kNone:
      return OpenDirect(std::move(stored), source);
    case CacheMode::kDirectsync: {
      absl::StatusOr<std::unique_ptr<Export>> direct =
          OpenDirect(std::move(stored), source);
      if (!direct.ok()) return direct;
      return std::make_unique<WriteThrough>(*std::move(direct));
    }
  }
  return stored;
}

// The partition of `stored` that `name` names.
absl::StatusOr<Part> FindPart(const Export& stored, const PartitionName& name,
                              const Source& source) {
  const UniqueFd fd(source.open_with(O_RDONLY | kOpenFlags));
  if (!fd.valid()) return OpenErrorStatus(errno, stored.path());
  struct stat opened, read;
  if (FileStatus(stored.lock_fd(), &opened) != 0 ||
      FileStatus(fd.get(), &read) != 0) {
    return NoInput(stored.path(), ErrnoText(errno));
  }
  if (opened.st_dev != read.st_dev || opened.st_ino != read.st_ino) {
    return NoInput(stored.path(),
                   "another file has taken its place meanwhile; try again");
  }
  const absl::StatusOr<PartitionTable> table =
      source.tables->Read(fd.get(), stored.path());
  if (!table.ok()) return table.status();
  const absl::StatusOr<PartitionRange> range =
      FindPartition(*table, name, stored.facts().size_bytes, stored.path());
  if (!range.ok()) return range.status();
  return Part{range->offset, range->length};
}

// The same, with its use of the page cache and the layers of `settings`.
absl::StatusOr<std::unique_ptr<Export>> ExportOf(
    UniqueFd fd, const Source& source, ExportSettings settings,
    std::string* read_only_reason) {
  absl::StatusOr<std::unique_ptr<StoredExport>> stored = StoredExportOf(
      std::move(fd), source.path, settings, read_only_reason, source.sharing);
  if (!stored.ok()) return stored.status();
  if (settings.partition.has_value()) {
    absl::StatusOr<Part> part = FindPart(**stored, *settings.partition, source);
    if (!part.ok()) return part.status();
    settings.part = *part;
  }
  absl::StatusOr<std::unique_ptr<Export>> cached =
      WithCacheMode(*std::move(stored), settings.cache, source);
  if (!cached.ok()) return cached;
  return WithLayers(*std::move(cached), settings);
}

// Whether RWF_NOAPPEND can cancel O_APPEND for one write (since Linux 6.9).
// preadv2() accepts the same flag and changes nothing.
bool HasNoAppend(int fd) {
  char byte;
  const iovec piece = {&byte, 1};
  return preadv2(fd, &piece, 1, 0, kRwfNoAppend) >= 0;
}

// Whether an open file description that others share can serve requests with
// its file status flags as they are; a change would affect the others.
absl::Status CheckShared(int fd, const std::string& name, int flags,
                         bool appends) {
  constexpr char kAdvice[] =
      ", and this process may not open the file anew: give it the right to, or "
      "hand the file over without that flag";
  if ((flags & O_DIRECT) != 0) {
    return NoInput(name, absl::StrCat("the descriptor handed over is open for "
                                      "unbuffered access (O_DIRECT)",
                                      kAdvice));
  }
  if (appends && !HasNoAppend(fd)) {
    return NoInput(name, absl::StrCat("the descriptor handed over is open for "
                                      "appending (O_APPEND)",
                                      kAdvice, ", or use --readonly"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status OpenErrorStatus(int error_number, const std::string& path) {
  const std::string what = absl::StrCat("failed to open ", Quoted(path));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ENAMETOOLONG:
    // The file has been replaced by a link, or leads out of the directory.
    case ELOOP:
    case EXDEV:
      return ErrnoStatus(error_number, what, absl::StatusCode::kNotFound);
    case EACCES:
    case EPERM:
      return ErrnoStatus(error_number, what,
                         absl::StatusCode::kPermissionDenied);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return ErrnoStatus(error_number, what);
    default:
      return ErrnoStatus(error_number, what, absl::StatusCode::kUnavailable);
  }
}

std::string ReadOnlyNotice(const std::string& name,
                           const std::string& read_only_reason) {
  return absl::StrCat(
      Quoted(name),
      " is served read-only, since it can't be opened for writing: ",
      read_only_reason, "; with --readonly, this is expected");
}

absl::StatusOr<std::unique_ptr<Export>> OpenExportWith(
    absl::FunctionRef<int(int flags)> open_with, const std::string& path,
    ExportSettings settings, std::string* read_only_reason,
    TableReader* tables) {
  UniqueFd fd;
  int error = 0;
  if (!settings.read_only) {
    fd.Reset(open_with(O_RDWR | kOpenFlags));
    error = fd.valid() ? 0 : errno;
    if (OnlyWritingIsRefused(error)) {
      settings.read_only = true;
      *read_only_reason = ErrnoText(error);
    }
  }
  if (!fd.valid() && settings.read_only) {
    fd.Reset(open_with(O_RDONLY | kOpenFlags));
    error = fd.valid() ? 0 : errno;
  }
  if (error == EISDIR) return NoInput(path, "it is a directory");
  if (error != 0) return OpenErrorStatus(error, path);
  return ExportOf(std::move(fd),
                  {path, open_with, Export::Sharing::kOwn, tables}, settings,
                  read_only_reason);
}

absl::StatusOr<std::unique_ptr<Export>> OpenExport(
    const std::string& path, const ExportSettings& settings,
    std::string* read_only_reason, TableReader* tables) {
  absl::StatusOr<std::unique_ptr<Export>> opened =
      OpenExportWith([&](int flags) { return open(path.c_str(), flags); }, path,
                     settings, read_only_reason, tables);
  // Every other failure means that the export doesn't exist.
  if (absl::IsPermissionDenied(opened.status())) {
    return absl::NotFoundError(
        absl::StrCat(opened.status().message(), "; user ", geteuid(),
                     " needs permission on it, and on each folder above it"));
  }
  if (!opened.ok() && !absl::IsInternal(opened.status()) &&
      !absl::IsFailedPrecondition(opened.status()) &&
      !absl::IsCancelled(opened.status())) {
    return absl::NotFoundError(opened.status().message());
  }
  return opened;
}

absl::StatusOr<std::unique_ptr<Export>> OpenHandedOver(
    int fd, const std::string& name, ExportSettings settings,
    std::string* read_only_reason, TableReader* tables) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_WRONLY) {
    return NoInput(name, "the descriptor handed over can't be read from");
  }
  if (!settings.read_only && (flags & O_ACCMODE) == O_RDONLY) {
    settings.read_only = true;
    *read_only_reason = "the descriptor handed over is open for reading only";
  }
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  const auto open_link = [&](int open_flags) {
    return open(link.c_str(), open_flags);
  };
  UniqueFd own(
      open_link((settings.read_only ? O_RDONLY : O_RDWR) | kOpenFlags));
  if (own.valid()) {
    return ExportOf(std::move(own),
                    {name, open_link, Export::Sharing::kOwn, tables}, settings,
                    read_only_reason);
  }
  if (settings.partition.has_value()) {
    return NoInput(name,
                   "its partition table can't be read: this process may not "
                   "open the file anew, and needs the right to");
  }
  const bool appends = !settings.read_only && (flags & O_APPEND) != 0;
  if (absl::Status status = CheckShared(fd, name, flags, appends);
      !status.ok()) {
    return status;
  }
  own.Reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!own.valid()) return NoInput(name, ErrnoText(errno));
  const Export::Sharing sharing =
      appends ? Export::Sharing::kSharedForAppending : Export::Sharing::kShared;
  return ExportOf(std::move(own), {name, open_link, sharing}, settings,
                  read_only_reason);
}

}  // namespace nbdinetd
