#include "export/copy_on_write.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/limits.h"
#include "export/base_lock.h"
#include "export/block_map.h"
#include "export/copy_parts.h"
#include "export/file.h"
#include "export/forwarding_catalog.h"
#include "export/overlay.h"
#include "export/quota.h"
#include "export/slice.h"

namespace nbdinetd {
namespace {

// Of memfd_create(2), since Linux 6.3.
constexpr unsigned kNoExecSeal = 8;

// These return an empty descriptor and errno on failure.
UniqueFd MakeInMemory() {
  constexpr char kName[] = "nbdinetd-copy";
  const int fd = memfd_create(kName, MFD_CLOEXEC | kNoExecSeal);
  return UniqueFd(
      fd >= 0 || errno != EINVAL ? fd : memfd_create(kName, MFD_CLOEXEC));
}

UniqueFd MakeIn(const std::string& directory) {
  // O_EXCL: it never gets a name.
  const int fd =
      open(directory.c_str(), O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC,
           S_IRUSR | S_IWUSR);
  // EISDIR: the kernel doesn't know O_TMPFILE.
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return UniqueFd(fd);
  std::string path = absl::StrCat(directory, "/.nbdinetd-copy-XXXXXX");
  UniqueFd named(mkostemp(path.data(), O_CLOEXEC));
  // A copy that keeps its name would be left behind.
  if (named.valid() && unlink(path.c_str()) != 0) {
    const int error = errno;
    named.Reset();
    errno = error;
  }
  return named;
}

absl::Status Failed(const Export& base, absl::string_view what, int error) {
  return ErrnoStatus(error, absl::StrCat("failed to make a private copy of ",
                                         Quoted(base.path()), ": ", what));
}

Export::Facts TemporaryFacts(const Export::Facts& base) {
  Export::Facts facts = CopyFacts(base);
  facts.temporary = true;
  return facts;
}

class CopyingCatalog : public ForwardingCatalog {
 public:
  CopyingCatalog(std::unique_ptr<Catalog> inner, PrivateCopy copy)
      : ForwardingCatalog(std::move(inner)), copy_(std::move(copy)) {}

  absl::StatusOr<Opened> Open(absl::string_view name) override {
    absl::StatusOr<Opened> opened = inner().Open(name);
    if (!opened.ok()) return opened;
    // A client that only asks what there is makes no copy.
    opened->target = PromiseOfCopy(std::move(opened->target));
    return opened;
  }

  absl::StatusOr<std::shared_ptr<Export>> Claim(
      std::shared_ptr<Export> target) override {
    if (!copy_.has_value()) {
      return absl::InternalError("there is a private copy already");
    }
    if (absl::Status status = LockBaseOfCopy(*target); !status.ok()) {
      return status;
    }
    PrivateCopy copy = *std::move(copy_);
    copy_.reset();
    absl::StatusOr<std::shared_ptr<Export>> claimed =
        inner().Claim(std::move(target));
    if (!claimed.ok()) return claimed;
    return std::move(copy).Of(*std::move(claimed));
  }

  int copy_fd() const override { return copy_.has_value() ? copy_->fd() : -1; }

 private:
  std::optional<PrivateCopy> copy_;
};

// The first of the directories in a variable of the environment, which are
// separated by colons (systemd.exec(5)); empty without one.
std::string FirstOf(const char* variable) {
  const char* given = std::getenv(variable);
  if (given == nullptr) return "";
  const std::pair<std::string, std::string> first =
      absl::StrSplit(given, absl::MaxSplits(':', 1));
  return first.first;
}

}  // namespace

std::shared_ptr<Export> PromiseOfCopy(std::shared_ptr<Export> base) {
  const Export::Facts facts = TemporaryFacts(base->facts());
  return std::make_shared<Slice>(std::move(base), 0, facts);
}

std::string CopyDirectory(const CopySettings& settings) {
  if (!settings.directory.empty()) return settings.directory;
  std::string state = FirstOf("STATE_DIRECTORY");
  // The others are emptied.
  if (settings.keep || !state.empty()) return state;
  std::string runtime = FirstOf("RUNTIME_DIRECTORY");
  return runtime.empty() ? "/var/tmp" : runtime;
}

std::string CopyPlace(const CopySettings& settings) {
  return settings.in_memory ? "memory" : Quoted(CopyDirectory(settings));
}

absl::StatusOr<PrivateCopy> PrivateCopy::Create(const CopySettings& settings) {
  UniqueFd fd =
      settings.in_memory ? MakeInMemory() : MakeIn(CopyDirectory(settings));
  if (fd.valid()) return PrivateCopy(std::move(fd), settings.max_bytes);
  const int error = errno;
  const bool is_ours = error == EMFILE || error == ENFILE || error == ENOMEM;
  return ErrnoStatus(
      error,
      absl::StrCat("failed to make a file for a private copy in ",
                   CopyPlace(settings),
                   settings.directory.empty() && !settings.in_memory
                       ? " (--cow-dir=DIR chooses another directory)"
                       : ""),
      is_ours ? absl::StatusCode::kInternal : absl::StatusCode::kAlreadyExists);
}

absl::StatusOr<std::shared_ptr<Export>> PrivateCopy::Of(
    std::shared_ptr<Export> base) && {
  const uint64_t size = base->facts().size_bytes;
  const uint64_t block = CopyBlockBytes(size);
  if (block > kMaxCopyBlockBytes) {
    return absl::UnimplementedError(
        absl::StrCat("failed to make a private copy of ", Quoted(base->path()),
                     ": it is larger than 512 TiB"));
  }
  const bool cloned = CloneInto(*base, fd_.get());
  if (!cloned && ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
    return Failed(*base, "its size", errno);
  }
  struct stat st;
  if (FileStatus(fd_.get(), &st) != 0) return Failed(*base, "fstat", errno);
  const bool is_limited = max_bytes_ != CopySettings().max_bytes;
  const bool has_holes =
      is_limited && CanPunchHoles(fd_.get(), /*end_bytes=*/size);
  std::unique_ptr<Export> copy =
      FileExport::CreateTemporary(base->path(), std::move(fd_), st);
  if (is_limited) {
    std::unique_ptr<BlockMap> stored = MapOfBlocks(size, block);
    if (stored == nullptr) return Failed(*base, "its map", ENOMEM);
    copy = std::make_unique<Quota>(std::move(copy),
                                   Quota::Limit{max_bytes_, block, has_holes},
                                   std::move(stored));
  }
  const Export::Facts facts = TemporaryFacts(base->facts());
  if (cloned) return CloneOf(std::move(base), std::move(copy), facts);
  std::unique_ptr<BlockMap> copied = MapOfBlocks(size, block);
  if (copied == nullptr) return Failed(*base, "its map", ENOMEM);
  return std::make_shared<Overlay>(
      std::move(base), facts,
      Overlay::Copy{std::move(copy), std::move(copied), block});
}

std::unique_ptr<Catalog> WithPrivateCopies(std::unique_ptr<Catalog> inner,
                                           PrivateCopy copy) {
  return std::make_unique<CopyingCatalog>(std::move(inner), std::move(copy));
}

}  // namespace nbdinetd
