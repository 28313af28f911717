#include "export/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/limits.h"
#include "base/unique_fd.h"
#include "base/utf8.h"
#include "export/open.h"
#include "export/storage.h"
#include "partition/partition_name.h"

namespace nbdinetd {
namespace {

// Opens an entry of a directory, through symbolic links that stay inside of it.
// Returns a descriptor, or -1 and errno: EXDEV for a link that leads out, or is
// absolute.
int OpenBeneath(int directory, const char* name, int flags) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_LARGEFILE);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  while (true) {
    const long fd = syscall(SYS_openat2, directory, name, &how, sizeof(how));
    if (fd >= 0 || errno != EINTR) return static_cast<int>(fd);
  }
}

// Why a file of this type is no export; nullptr if it can be one.
const char* WhyNoExport(const struct stat& st) {
  switch (st.st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFBLK:
      return nullptr;
    case S_IFDIR:
      return "it is a directory";
    default:
      return "it is neither a regular file nor a block device";
  }
}

std::string DescriptionOf(const struct stat& st) {
  // Reading the size of a device would need an open().
  return S_ISBLK(st.st_mode) ? "block device"
                             : SizeInWords(static_cast<uint64_t>(st.st_size));
}

// The names in a directory, in byte order.
class Names {
 public:
  size_t size() const { return starts_.size(); }
  const char* operator[](size_t i) const { return &bytes_[starts_[i]]; }

  // Reads the names from `fd`; with `exports_only`, without those that
  // getdents64() already shows to be no exports. ResourceExhausted for more
  // than kMaxListedExports names.
  absl::Status Read(int fd, const std::string& path, bool exports_only) {
    alignas(dirent64) char buffer[32 << 10];
    while (true) {
      const ssize_t n = getdents64(fd, buffer, sizeof(buffer));
      // A removed directory is empty.
      if (n < 0 && errno == ENOENT) break;
      if (n < 0) {
        return ErrnoStatus(
            errno, absl::StrCat("failed to read directory ", Quoted(path)));
      }
      if (n == 0) break;
      for (ssize_t i = 0; i < n;) {
        const auto* entry = reinterpret_cast<const dirent64*>(buffer + i);
        i += entry->d_reclen;
        if (exports_only && !MayBeExport(*entry)) continue;
        if (!Add(entry->d_name)) {
          return absl::ResourceExhaustedError(
              absl::StrCat("directory ", Quoted(path), " has more than ",
                           kMaxListedExports, " files to list"));
        }
      }
    }
    Sort();
    return absl::OkStatus();
  }

 private:
  static bool MayBeExport(const dirent64& entry) {
    return (entry.d_type == DT_REG || entry.d_type == DT_BLK ||
            entry.d_type == DT_LNK || entry.d_type == DT_UNKNOWN) &&
           IsExportFileName(entry.d_name);
  }

  // False when there are too many names.
  bool Add(const char* name) {
    if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) {
      return true;
    }
    if (starts_.size() == kMaxListedExports) return false;
    starts_.push_back(static_cast<uint32_t>(bytes_.size()));
    bytes_.append(name, std::strlen(name) + 1);
    return true;
  }

  void Sort() {
    const auto compare = [this](uint32_t a, uint32_t b) {
      return std::strcmp(&bytes_[a], &bytes_[b]);
    };
    std::sort(starts_.begin(), starts_.end(),
              [&](uint32_t a, uint32_t b) { return compare(a, b) < 0; });
    // A name that is renamed during the reading may appear twice.
    starts_.erase(
        std::unique(starts_.begin(), starts_.end(),
                    [&](uint32_t a, uint32_t b) { return compare(a, b) == 0; }),
        starts_.end());
  }

  std::string bytes_;  // each name with its NUL
  std::vector<uint32_t> starts_;
};

class DirectoryCatalog : public Catalog {
 public:
  DirectoryCatalog(const std::string& path, UniqueFd fd,
                   const ExportSettings& settings,
                   const std::string& default_name,
                   std::unique_ptr<TableReader> tables)
      : path_(path),
        fd_(std::move(fd)),
        settings_(settings),
        default_name_(default_name),
        has_partitions_(tables != nullptr),
        tables_(std::move(tables)) {}

  absl::Status Find(absl::string_view name) override {
    Choice choice;
    return Choose(FileNameOf(name), &choice);
  }

  absl::StatusOr<Opened> Open(absl::string_view name) override {
    return OpenWith(name, settings_);
  }
  absl::StatusOr<Opened> OpenReadOnly(absl::string_view name) override {
    ExportSettings settings = settings_;
    settings.read_only = true;
    return OpenWith(name, settings);
  }
  std::string CanonicalName(absl::string_view name) const override {
    return FileNameOf(name);
  }
  std::string WholeOf(absl::string_view name) const override {
    const std::optional<FileAndNumber> parts =
        has_partitions_ ? SplitPartitionName(name) : std::nullopt;
    return parts.has_value() ? parts->file : "";
  }
  // The tables are read no more.
  absl::StatusOr<std::shared_ptr<Export>> Claim(
      std::shared_ptr<Export> target) override {
    tables_.reset();
    return target;
  }
  absl::Status List(Visitor visit) override;
  void ListOne(absl::string_view name, Visitor visit) override {
    struct stat st;
    if (Look(std::string(name), &st).ok()) visit(name, DescriptionOf(st));
  }
  std::string InWords() override;
  int directory_fd() const override { return fd_.get(); }
  int tables_fd() const override {
    return tables_ == nullptr ? -1 : tables_->fd();
  }
  Kinds kinds() const override {
    return {/*writable=*/!settings_.read_only, /*block_devices=*/true};
  }

 private:
  std::string FileNameOf(absl::string_view name) const {
    return name.empty() ? default_name_ : std::string(name);
  }
  std::string PathOf(absl::string_view name) const {
    return absl::StrCat(path_, path_.back() == '/' ? "" : "/", name);
  }
  absl::Status NoExport(const std::string& name, absl::string_view why) const {
    return absl::NotFoundError(
        absl::StrCat("failed to open ", Quoted(PathOf(name)), ": ", why));
  }
  absl::StatusOr<Opened> OpenWith(absl::string_view name,
                                  ExportSettings settings);
  // The file of an export, and its partition if it is one.
  struct Choice {
    std::string file;
    struct stat st = {};
    std::optional<PartitionName> partition = std::nullopt;
  };
  // Errors as for Look(); the partition may not exist.
  absl::Status Choose(const std::string& name, Choice* choice) const;
  // The status of an entry, or of the file that a link leads to. NotFound when
  // it is no export.
  absl::Status Look(const std::string& name, struct stat* st) const;
  absl::Status ReadNames(bool exports_only, Names* names) const;

  const std::string path_;
  const UniqueFd fd_;
  const ExportSettings settings_;
  const std::string default_name_;
  const bool has_partitions_;
  std::unique_ptr<TableReader> tables_;  // nullptr: no partitions any more
  const bool by_root_ = geteuid() == 0;
};

absl::Status DirectoryCatalog::Look(const std::string& name,
                                    struct stat* st) const {
  if (!IsExportFileName(name)) {
    return NoExport(name, "no file can be served under this name");
  }
  if (fstatat(fd_.get(), name.c_str(), st, AT_SYMLINK_NOFOLLOW) != 0) {
    return OpenErrorStatus(errno, PathOf(name));
  }
  if (S_ISLNK(st->st_mode)) {
    // fstatat() would follow it anywhere.
    const UniqueFd fd(OpenBeneath(fd_.get(), name.c_str(), O_PATH));
    if (!fd.valid() && errno == EXDEV) {
      return NoExport(name,
                      "it is a symbolic link that leads out of the directory; "
                      "a relative one that stays inside is followed");
    }
    if (!fd.valid() || FileStatus(fd.get(), st) != 0) {
      return OpenErrorStatus(errno, PathOf(name));
    }
  }
  const char* why = WhyNoExport(*st);
  return why == nullptr ? absl::OkStatus() : NoExport(name, why);
}

absl::Status DirectoryCatalog::Choose(const std::string& name,
                                      Choice* choice) const {
  choice->file = name;
  const absl::Status status = Look(name, &choice->st);
  if (!absl::IsNotFound(status) || tables_ == nullptr) return status;
  const std::optional<FileAndNumber> parts = SplitPartitionName(name);
  if (!parts.has_value() || !Look(parts->file, &choice->st).ok()) return status;
  choice->file = parts->file;
  choice->partition = PartitionName{parts->number, ""};
  return absl::OkStatus();
}

absl::StatusOr<Catalog::Opened> DirectoryCatalog::OpenWith(
    absl::string_view export_name, ExportSettings settings) {
  const std::string name = FileNameOf(export_name);
  Choice choice;
  // Opening a FIFO or a device may have effects. The type is therefore checked
  // before, and again after the open, since the file may have been replaced.
  if (absl::Status status = Choose(name, &choice); !status.ok()) return status;
  const std::string& file = choice.file;
  settings.partition = choice.partition;
  std::string read_only_reason;
  absl::StatusOr<std::unique_ptr<Export>> target = OpenExportWith(
      [&](int flags) { return OpenBeneath(fd_.get(), file.c_str(), flags); },
      PathOf(file), settings, &read_only_reason, tables_.get());
  if (absl::IsPermissionDenied(target.status()) && by_root_) {
    return absl::PermissionDeniedError(
        absl::StrCat(target.status().message(),
                     " (in the sandbox root may open only what its user and "
                     "groups may)"));
  }
  if (!target.ok()) return target.status();
  std::string description = S_ISBLK(choice.st.st_mode)
                                ? DescriptionOf(choice.st)
                                : SizeInWords((*target)->facts().size_bytes);
  return Opened{.target = *std::move(target),
                .name = name,
                .description = std::move(description),
                .read_only_reason = std::move(read_only_reason)};
}

absl::Status DirectoryCatalog::ReadNames(bool exports_only,
                                         Names* names) const {
  // fd_ is opened with O_PATH, so that only this call needs the right to read
  // the directory, and each list has its own position.
  const UniqueFd fd(OpenBeneath(fd_.get(), ".", O_RDONLY | O_DIRECTORY));
  if (!fd.valid()) return OpenErrorStatus(errno, path_);
  return names->Read(fd.get(), path_, exports_only);
}

absl::Status DirectoryCatalog::List(Visitor visit) {
  Names names;
  if (absl::Status status = ReadNames(/*exports_only=*/true, &names);
      !status.ok()) {
    return status;
  }
  for (size_t i = 0; i < names.size(); ++i) {
    struct stat st;
    // An entry that was removed or replaced meanwhile is left out.
    if (!Look(names[i], &st).ok()) continue;
    if (!visit(names[i], DescriptionOf(st))) break;
  }
  return absl::OkStatus();
}

std::string DirectoryCatalog::InWords() {
  Names names;
  if (absl::Status status = ReadNames(/*exports_only=*/false, &names);
      !status.ok()) {
    return absl::StrCat("can't list what would be served: ", status.message(),
                        "\n");
  }
  size_t count = 0;
  uint64_t total_bytes = 0;
  std::string rest;
  for (size_t i = 0; i < names.size(); ++i) {
    // Only opening shows whether a client can open it.
    const absl::StatusOr<Opened> opened = Open(names[i]);
    if (!opened.ok()) {
      absl::StrAppend(&rest, "left out: ", opened.status().message(), "\n");
      continue;
    }
    ++count;
    total_bytes += opened->target->facts().size_bytes;
    if (!opened->read_only_reason.empty()) {
      absl::StrAppend(
          &rest, ReadOnlyNotice(PathOf(names[i]), opened->read_only_reason),
          "\n");
    }
  }
  return absl::StrCat(
      "would serve ", count, count == 1 ? " file" : " files", " of ",
      Quoted(path_), ", ", SizeInWords(total_bytes), " in all, ",
      settings_.read_only ? "read-only" : "read-write",
      ", each under its own name\n",
      tables_ == nullptr
          ? ""
          : "and partition N of each FILE under the name FILE:N\n",
      default_name_.empty()
          ? std::string("the empty export name is unknown; --exportname=NAME "
                        "would make NAME the default export\n")
          : absl::StrCat("the default export is ", Quoted(default_name_),
                         Find(default_name_).ok() ? "" : ", which isn't there",
                         "\n"),
      rest);
}

}  // namespace

bool IsExportFileName(absl::string_view name) {
  return !name.empty() && name.size() <= NAME_MAX && name != "." &&
         name != ".." && name.find('/') == absl::string_view::npos &&
         name.find('\0') == absl::string_view::npos && IsValidUtf8(name);
}

std::string SizeInWords(uint64_t size_bytes) {
  if (size_bytes < 1024) {
    return absl::StrCat(size_bytes, size_bytes == 1 ? " byte" : " bytes");
  }
  int shift = 10;
  while ((size_bytes >> shift) >= 1024) shift += 10;
  const uint64_t fraction = (size_bytes >> (shift - 10)) & 1023;
  return absl::StrCat(size_bytes >> shift, ".", fraction * 10 / 1024, " ",
                      absl::string_view(&"KMGTPE"[shift / 10 - 1], 1), "iB (",
                      size_bytes, " bytes)");
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenDirectory(
    const std::string& path, const ExportSettings& settings,
    const std::string& default_name, std::unique_ptr<TableReader> tables) {
  if (!default_name.empty() && !IsExportFileName(default_name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--exportname=", Quoted(default_name),
                     ": no file of a directory can be served under this name"));
  }
  const std::string what =
      absl::StrCat("failed to open directory ", Quoted(path));
  UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return ErrnoStatus(errno, what,
                       errno == EMFILE || errno == ENFILE || errno == ENOMEM
                           ? absl::StatusCode::kInternal
                           : absl::StatusCode::kNotFound);
  }
  // Tests the right to search the directory, and openat2(2), once for all
  // clients.
  const UniqueFd probe(OpenBeneath(fd.get(), ".", O_PATH | O_DIRECTORY));
  if (!probe.valid()) {
    if (errno == ENOSYS) {
      return absl::InternalError(absl::StrCat(
          what,
          ": the kernel, or a sandbox around us, has no openat2(2), "
          "which --directory needs"));
    }
    return ErrnoStatus(errno, what, absl::StatusCode::kNotFound);
  }
  struct stat st;
  if (FileStatus(fd.get(), &st) != 0) {
    return ErrnoStatus(errno, what, absl::StatusCode::kNotFound);
  }
  ExportSettings known = settings;
  known.known_storage = KnownStorage{st.st_dev, StorageOf(fd.get(), st)};
  return std::make_unique<DirectoryCatalog>(path, std::move(fd), known,
                                            default_name, std::move(tables));
}

}  // namespace nbdinetd
