#include "ctl/copy_base.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "cli/open_served.h"
#include "ctl/stat_in_time.h"
#include "export/base_lock.h"
#include "export/exclusive.h"
#include "export/file_user.h"
#include "export/image_lock.h"
#include "export/kept_copy.h"

namespace nbdinetd::ctl {
namespace {

// Below what StateDirectory= is (systemd.exec(5)).
std::string StateRoot(const Where& where) {
  if (!where.user) return "/var/lib";
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return state;
  const char* home = std::getenv("HOME");
  return absl::StrCat(home == nullptr ? "" : home, "/.local/state");
}

// Two nodes of one block device are the same device.
bool IsSameFile(const Export& a, const Export& b) {
  struct stat first, second;
  if (FileStatus(a.lock_fd(), &first) != 0 ||
      FileStatus(b.lock_fd(), &second) != 0) {
    return false;
  }
  return S_ISBLK(first.st_mode)
             ? S_ISBLK(second.st_mode) && first.st_rdev == second.st_rdev
             : first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

bool IsSamePart(const Export& a, const Export& b) {
  return IsSameFile(a, b) && PlaceOf(a).offset == PlaceOf(b).offset;
}

// The base if the owner's export is this one; nullptr if it isn't.
absl::StatusOr<std::shared_ptr<Export>> OpenIfOwners(
    const ManagedExport& target, const KeptOwner& owner) {
  const Served& served = target.served;
  ExportSettings settings = served.settings;
  // With a description beside the page cache, the file would have two users.
  settings.cache = CacheMode::kWriteback;
  const absl::string_view path =
      served.directory.empty() ? served.file : served.directory;
  if (!target.arguments_known || path.empty() || path[0] != '/' ||
      target.has_root) {
    return absl::FailedPreconditionError(
        absl::StrCat("the file of export ", Quoted(target.name),
                     " can't be told from its unit: --base=FILE names it"));
  }
  if (!served.directory.empty()) {
    if (owner.by_path) return nullptr;
    absl::StatusOr<std::shared_ptr<Export>> base = OpenServedOf(
        served.directory, owner.export_name, settings, served.partitions);
    if (absl::IsNotFound(base.status())) return nullptr;
    return base;
  }
  const bool may_be_owners =
      served.export_name.has_value()
          ? !owner.by_path && owner.export_name == *served.export_name
          : owner.by_path;
  if (!may_be_owners) return nullptr;
  absl::StatusOr<std::shared_ptr<Export>> base =
      OpenServedFile(served.file, settings);
  if (base.ok() && owner.by_path &&
      owner.export_name != PathAndPlace(**base, served.file)) {
    return nullptr;
  }
  return base;
}

// Whether others have a regular file open, also those that /proc doesn't show:
// the kernel grants a lease for writing only to whom nobody shares the file
// with. False where it grants none.
bool IsOpenElsewhere(int fd) {
  struct statfs fs;
  if (fstatfs(fd, &fs) != 0) return false;
  // Their servers decide, and may refuse it whoever has the file open.
  constexpr uint32_t kCifs = 0xff534d42, kSmb2 = 0xfe534d42;
  const auto type = static_cast<uint32_t>(fs.f_type);
  if (type == NFS_SUPER_MAGIC || type == kCifs || type == kSmb2) return false;
  // A process that opens the file in this moment waits for the end of the
  // lease, and a signal says so: one that is ignored by default.
  fcntl(fd, F_SETSIG, SIGURG);
  if (fcntl(fd, F_SETLEASE, F_WRLCK) != 0) return errno == EAGAIN;
  fcntl(fd, F_SETLEASE, F_UNLCK);
  return false;
}

absl::Status InUse(const Export& base, absl::string_view by) {
  return absl::FailedPreconditionError(
      absl::StrCat("the base ", Quoted(base.path()), " is in use by ", by,
                   ": a merge changes it, and needs it alone"));
}

}  // namespace

bool IsSameDirectory(const std::string& a, const std::string& b) {
  struct stat first, second;
  return !a.empty() && !b.empty() && StatInTime(a, &first) == 0 &&
         StatInTime(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

std::string StateDirectoryOf(const ManagedExport& target, const Where& where) {
  if (target.state_directory.empty()) return "";
  return absl::StrCat(StateRoot(where), "/", target.state_directory);
}

std::string CopyDirectoryOf(const ManagedExport& target, const Where& where) {
  if (!target.served.keeps_copies) return "";
  if (!target.served.copy_directory.empty()) {
    return target.served.copy_directory;
  }
  return StateDirectoryOf(target, where);
}

absl::StatusOr<std::shared_ptr<Export>> OpenDefinedBase(
    const std::vector<ManagedExport>& exports, const Where& where,
    const std::string& directory, const KeptHeader& header) {
  std::shared_ptr<Export> found;
  for (const ManagedExport& target : exports) {
    if (!IsSameDirectory(CopyDirectoryOf(target, where), directory)) continue;
    absl::StatusOr<std::shared_ptr<Export>> base =
        OpenIfOwners(target, header.owner);
    if (!base.ok()) return base;
    if (*base == nullptr) continue;
    if (found != nullptr && !IsSamePart(*found, **base)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the copy may be of ", Quoted(found->path()), " or of ",
          Quoted((*base)->path()), ": --base=FILE names its base"));
    }
    found = *std::move(base);
  }
  if (found != nullptr) return found;
  return absl::FailedPreconditionError(absl::StrCat(
      "no export that keeps its copies in ", Quoted(directory),
      " is the one that the copy is of, ", Quoted(header.owner.export_name),
      ": --base=FILE names its base, and 'nbdinetctl copies export' makes an "
      "image without one"));
}

bool MayBeCopyOf(const std::vector<ManagedExport>& exports, const Where& where,
                 const std::string& directory, const KeptOwner& owner,
                 const Export& base) {
  bool is_known = false;
  for (const ManagedExport& target : exports) {
    if (!IsSameDirectory(CopyDirectoryOf(target, where), directory)) continue;
    is_known = true;
    const absl::StatusOr<std::shared_ptr<Export>> opened =
        OpenIfOwners(target, owner);
    if (!opened.ok()) return true;
    if (*opened != nullptr && IsSameFile(**opened, base)) return true;
  }
  return !is_known;
}

absl::StatusOr<std::shared_ptr<Export>> OpenNamedBase(
    const std::string& path, const KeptHeader& header) {
  absl::StatusOr<std::shared_ptr<Export>> base =
      OpenServedFile(path, ExportSettings());
  if (!base.ok()) return base;
  if (header.base_offset != 0 ||
      header.size_bytes != (*base)->facts().size_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the copy isn't one of all of ", Quoted(path),
        ": only the unit of its export can say which part of a file it is of, "
        "and 'nbdinetctl copies export' makes an image without that"));
  }
  return base;
}

absl::StatusOr<UniqueFd> LockBaseAlone(const Export& base) {
  const int fd = base.lock_fd();
  if (base.facts().read_only) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the base ", Quoted(base.path()), " can't be opened for writing"));
  }
  const absl::StatusOr<bool> locked = ExclusiveLock(fd).Try();
  if (!locked.ok()) return locked.status();
  if (!*locked) return InUse(base, "a connection (--exclusive)");
  const int error = LockBaseForMerge(base);
  if (error == EAGAIN) {
    return InUse(base,
                 "connections with --cow, or another merge ('nbdinetctl "
                 "connections' shows them)");
  }
  if (error != 0) {
    return ErrnoStatus(
        error, absl::StrCat("failed to lock the base ", Quoted(base.path())));
  }
  if (!LockImageAlone(fd)) {
    return InUse(base, "a connection or a virtual machine");
  }
  // For those who lock nothing.
  if (const std::optional<FileUser> user =
          FindFileUser(fd, [](const std::string&) { return true; })) {
    return InUse(base, InWords(*user));
  }
  if (!base.facts().block_device) {
    if (!IsOpenElsewhere(fd)) return UniqueFd();
    return InUse(base, "a process, or a loop device, that isn't visible here");
  }
  // Fails if the device is mounted, or a part of another one.
  UniqueFd alone(open(absl::StrCat("/proc/self/fd/", fd).c_str(),
                      O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK));
  if (alone.valid()) return alone;
  if (errno == EBUSY) return InUse(base, "the system, such as by a mount");
  return ErrnoStatus(errno, absl::StrCat("failed to open the base ",
                                         Quoted(base.path()), " alone"));
}

}  // namespace nbdinetd::ctl
