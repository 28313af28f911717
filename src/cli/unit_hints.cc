#include "cli/unit_hints.h"

#include <limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cstdlib>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

constexpr char kStrict[] =
    "nbdinetd-listen.service, and nbdinetd@.service with strict.conf, ";

constexpr absl::string_view kHidden[] = {"/home", "/root", "/run", "/tmp",
                                         "/var/tmp"};
constexpr absl::string_view kWritable[] = {"/srv", "/mnt", "/media",
                                           "/var/lib/libvirt/images"};

bool IsBelow(absl::string_view path, absl::string_view folder) {
  return path == folder || absl::StartsWith(path, absl::StrCat(folder, "/"));
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

// The permissions of root, without capabilities, as bits of S_IRWXO.
mode_t PermissionsOfRoot(const struct stat& st) {
  const int shift = st.st_uid == 0 ? 6 : st.st_gid == 0 ? 3 : 0;
  return (st.st_mode >> shift) & S_IRWXO;
}

bool HasAccessControlList(const std::string& path) {
  return getxattr(path.c_str(), "system.posix_acl_access", nullptr, 0) > 0;
}

// A file or folder that lacks a permission for root.
struct Obstacle {
  std::string path;
  struct stat st;
};

// The first folder on the way to `path` that root can't search, or `path` if
// root lacks one of `permissions` on it.
std::optional<Obstacle> FindObstacle(const std::string& path,
                                     mode_t permissions) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const bool is_last = end == std::string::npos;
    Obstacle step = {path.substr(0, end), {}};
    const mode_t needed = is_last ? permissions : mode_t{S_IXOTH};
    if (stat(step.path.c_str(), &step.st) == 0 &&
        (PermissionsOfRoot(step.st) & needed) != needed &&
        !HasAccessControlList(step.path)) {
      return step;
    }
    if (is_last) return std::nullopt;
  }
}

std::string PermissionHint(const std::string& path, const Obstacle& obstacle,
                           absl::string_view consequence) {
  return absl::StrCat(
      "the shipped services ", consequence, " ", Quoted(path),
      ": they run as root without capabilities, and ", Quoted(obstacle.path),
      " of user ", obstacle.st.st_uid, " has mode ",
      absl::StrFormat("%04o", obstacle.st.st_mode & 07777),
      "; set User= in a drop-in (systemctl edit nbdinetd@.service)");
}

// The hint about permissions, if there is one.
std::optional<std::string> HintOfPermissions(const std::string& path,
                                             const struct stat& st,
                                             bool read_only) {
  const mode_t searching = S_ISDIR(st.st_mode) ? S_IXOTH : 0;
  if (const auto obstacle = FindObstacle(path, S_IROTH | searching)) {
    return PermissionHint(path, *obstacle, "can't open");
  }
  if (read_only || S_ISDIR(st.st_mode)) return std::nullopt;
  if (const auto obstacle = FindObstacle(path, S_IROTH | S_IWOTH)) {
    return PermissionHint(path, *obstacle, "can't write to");
  }
  return std::nullopt;
}

}  // namespace

absl::Span<const absl::string_view> HiddenFolders() { return kHidden; }
absl::Span<const absl::string_view> WritableFolders() { return kWritable; }

std::vector<std::string> UnitHints(const std::string& path, bool read_only) {
  std::vector<std::string> hints;
  char buffer[PATH_MAX];
  if (realpath(path.c_str(), buffer) == nullptr) return hints;
  const std::string resolved = buffer;
  struct stat st;
  if (stat(resolved.c_str(), &st) != 0) return hints;
  if (auto hint = HintOfPermissions(resolved, st, read_only)) {
    hints.push_back(*std::move(hint));
  }
  const std::string folder =
      S_ISDIR(st.st_mode) ? resolved : FolderOf(resolved);
  for (const absl::string_view hidden : kHidden) {
    if (!IsBelow(resolved, hidden)) continue;
    // Not a shared folder as a whole.
    const std::string& shown = folder == hidden ? resolved : folder;
    hints.push_back(absl::StrCat(
        kStrict, "don't see ", hidden, ": a drop-in with ",
        read_only ? "BindReadOnlyPaths=" : "BindPaths=", shown, " shows it"));
    return hints;
  }
  if (read_only || IsBelow(resolved, "/dev")) return hints;
  for (const absl::string_view writable : kWritable) {
    if (IsBelow(resolved, writable)) return hints;
  }
  hints.push_back(absl::StrCat(kStrict, "can write only below ",
                               absl::StrJoin(kWritable, ", "),
                               ": a drop-in with ReadWritePaths=", folder,
                               " lets them write to ", Quoted(path)));
  return hints;
}

}  // namespace nbdinetd
