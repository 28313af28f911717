#include "export/kept_catalog.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "export/base_lock.h"
#include "export/cache_modes.h"
#include "export/copy_on_write.h"
#include "export/forwarding_catalog.h"
#include "export/kept_copy.h"
#include "export/kept_directory.h"
#include "export/kept_name.h"
#include "export/layer.h"
#include "export/slice.h"
#include "export/storage.h"

namespace nbdinetd {
namespace {

// A copy before it is locked: only its file is known.
class Reservation : public Layer {
 public:
  Reservation(std::shared_ptr<Export> base, int copy_fd)
      : Layer(std::move(base)), copy_fd_(copy_fd) {}

  int lock_fd() const override { return copy_fd_; }
  bool lock_fd_is_read_only() const override { return false; }

 private:
  const int copy_fd_;
};

std::string CurrentDirectory() {
  char path[PATH_MAX];
  return getcwd(path, sizeof(path)) == nullptr ? "" : path;
}

class KeptCatalog : public ForwardingCatalog {
 public:
  // `storage` is that of the copies.
  KeptCatalog(std::unique_ptr<Catalog> inner, const CopySettings& settings,
              CacheMode cache, const Storage& storage, KeptDirectory directory)
      : ForwardingCatalog(std::move(inner)),
        settings_(settings),
        cache_(cache),
        storage_(storage),
        directory_(std::move(directory)),
        copy_fd_(directory_.copy_fd()) {}

  absl::StatusOr<Opened> Open(absl::string_view name) override {
    absl::StatusOr<Opened> opened = inner().Open(name);
    if (!opened.ok()) return opened;
    // The export below has the promises of the copy that follows.
    Export::Facts facts = KeptFacts(opened->target->facts());
    facts.storage = storage_;
    opened->target =
        std::make_shared<Slice>(std::move(opened->target), 0, facts);
    return opened;
  }

  absl::StatusOr<std::shared_ptr<Export>> Reserve(
      std::shared_ptr<Export> target, const std::string& name,
      const Claimant& claimant) override;
  absl::StatusOr<std::shared_ptr<Export>> Claim(
      std::shared_ptr<Export> reserved) override;

  int copy_fd() const override { return copy_fd_; }
  int copies_fd() const override { return directory_.fd(); }

 private:
  // What Reserve() has found.
  struct Reserved {
    std::shared_ptr<Export> base;
    KeptOwner owner;
    std::string file_name;
    bool is_new;
  };

  std::string PathOf(const Export& target) const {
    return target.path()[0] == '/'
               ? target.path()
               : absl::StrCat(working_directory_, "/", target.path());
  }
  // The owner of the copy. Unauthenticated: the client is unknown.
  absl::StatusOr<KeptOwner> OwnerOf(const Export& target,
                                    const std::string& name,
                                    const Claimant& claimant) const;
  // Makes the reserved copy, which is new. Aborted: another one has its name.
  absl::StatusOr<FoundHeader> Make(Reserved& reserved);
  // The header of the reserved copy, which was there. Aborted: it isn't any
  // more.
  absl::StatusOr<FoundHeader> Check(const Reserved& reserved);
  // The error for a copy that can't be used. Aborted: it has been discarded.
  absl::Status Explain(const Reserved& reserved, const absl::Status& reason);

  const CopySettings settings_;
  const CacheMode cache_;
  const Storage storage_;
  const std::string boot_id_ = ReadBootId();
  const std::string working_directory_ = CurrentDirectory();
  KeptDirectory directory_;
  const int copy_fd_;
  std::optional<Reserved> reserved_;
};

absl::StatusOr<KeptOwner> KeptCatalog::OwnerOf(const Export& target,
                                               const std::string& name,
                                               const Claimant& claimant) const {
  KeptOwner owner;
  owner.by_path = name.empty();
  owner.export_name =
      owner.by_path ? PathAndPlace(target, PathOf(target)) : name;
  if (settings_.key == CopyKey::kPeerAddress) {
    owner.kind = ClientKind::kAddress;
    owner.identity = claimant.address;
  } else {
    owner.kind = claimant.by_psk ? ClientKind::kPsk : ClientKind::kCertificate;
    owner.identity = claimant.tls_identity;
  }
  if (!owner.identity.empty()) return owner;
  return absl::UnauthenticatedError(
      settings_.key == CopyKey::kPeerAddress
          ? "a kept copy belongs to an IP address, and this client has none"
          : "a kept copy belongs to a client that TLS has identified, by a PSK "
            "or a certificate");
}

absl::StatusOr<std::shared_ptr<Export>> KeptCatalog::Reserve(
    std::shared_ptr<Export> target, const std::string& name,
    const Claimant& claimant) {
  reserved_.reset();
  absl::StatusOr<KeptOwner> owner = OwnerOf(*target, name, claimant);
  if (!owner.ok()) return owner.status();
  std::string file_name = KeptNameOf(*owner);
  const absl::StatusOr<bool> is_there = directory_.Take(file_name);
  if (!is_there.ok()) return is_there.status();
  reserved_ = Reserved{target, *std::move(owner), std::move(file_name),
                       /*is_new=*/!*is_there};
  return std::make_shared<Reservation>(std::move(target), copy_fd_);
}

absl::StatusOr<FoundHeader> KeptCatalog::Make(Reserved& reserved) {
  const NewCopy copy = {
      .owner = reserved.owner,
      .base_path = PathOf(*reserved.base),
      .boot_id = boot_id_,
      .may_be_clone = settings_.max_bytes == CopySettings().max_bytes};
  absl::StatusOr<FoundHeader> made = MakeCopy(copy_fd_, *reserved.base, copy);
  if (!made.ok()) return made;
  const int error = directory_.Name(reserved.file_name);
  if (error == 0) return made;
  if (error == EEXIST) return absl::AbortedError("another copy was faster");
  return ErrnoStatus(error, absl::StrCat("failed to name the kept copy ",
                                         Quoted(reserved.file_name), " in ",
                                         Quoted(directory_.path())));
}

absl::StatusOr<FoundHeader> KeptCatalog::Check(const Reserved& reserved) {
  if (directory_.IsGone()) return absl::AbortedError("the copy is gone");
  absl::StatusOr<FoundHeader> found =
      CheckCopy(copy_fd_, *reserved.base, reserved.owner);
  if (!found.ok()) return Explain(reserved, found.status());
  return found;
}

absl::Status KeptCatalog::Explain(const Reserved& reserved,
                                  const absl::Status& reason) {
  const std::string copy = absl::StrCat(
      "the kept copy ",
      Quoted(absl::StrCat(directory_.path(), "/", reserved.file_name)));
  if (!absl::IsAborted(reason)) {
    return absl::Status(
        reason.code(),
        absl::StrCat(copy, " can't be used: ", reason.message()));
  }
  if (settings_.discard_stale) {
    if (const int error = directory_.Remove(reserved.file_name)) {
      return ErrnoStatus(error, absl::StrCat("failed to delete ", copy));
    }
    return absl::AbortedError("the copy was stale, and is deleted");
  }
  return absl::FailedPreconditionError(absl::StrCat(
      copy, " is stale: its base ", Quoted(reserved.base->path()),
      " has changed since (", reason.message(),
      "); 'nbdinetctl copies' discards it or writes it to an image of its own, "
      "and --cow-stale=discard lets such copies begin anew"));
}

absl::StatusOr<std::shared_ptr<Export>> KeptCatalog::Claim(
    std::shared_ptr<Export> /*reserved*/) {
  if (!reserved_.has_value()) {
    return absl::InternalError("no kept copy has been reserved");
  }
  Reserved reserved = *std::move(reserved_);
  reserved_.reset();
  // Before it is compared with anything.
  if (absl::Status status = LockBaseOfCopy(*reserved.base); !status.ok()) {
    return status;
  }
  absl::StatusOr<FoundHeader> found =
      reserved.is_new ? Make(reserved) : Check(reserved);
  if (!found.ok()) return found.status();
  absl::StatusOr<std::shared_ptr<Export>> base =
      inner().Claim(std::move(reserved.base));
  if (!base.ok()) return base;
  absl::StatusOr<std::shared_ptr<Export>> copy =
      OpenCopy(directory_.Release(), *std::move(base),
               {*std::move(found), boot_id_, settings_.max_bytes, storage_});
  const bool is_stored_at_once =
      cache_ == CacheMode::kWritethrough || cache_ == CacheMode::kDirectsync;
  if (!copy.ok() || !is_stored_at_once) return copy;
  return std::make_shared<WriteThrough>(*std::move(copy));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Catalog>> WithKeptCopies(
    std::unique_ptr<Catalog> inner, const CopySettings& settings,
    const ExportSettings& exports) {
  const std::string path = CopyDirectory(settings);
  if (path.empty()) {
    return absl::InvalidArgumentError(
        "--cow=keep needs --cow-dir=DIR, where copies stay: there is no "
        "$STATE_DIRECTORY");
  }
  absl::StatusOr<KeptDirectory> directory = KeptDirectory::Open(path);
  if (!directory.ok()) return directory.status();
  struct stat st;
  const Storage storage = FileStatus(directory->fd(), &st) == 0
                              ? StorageOf(directory->fd(), st)
                              : Storage();
  return std::make_unique<KeptCatalog>(
      std::move(inner), settings, exports.cache.value_or(CacheMode::kWriteback),
      WithShared(storage, exports.shared), *std::move(directory));
}

}  // namespace nbdinetd
