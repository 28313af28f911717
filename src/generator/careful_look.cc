#include "generator/careful_look.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nbdinetd {
namespace {

constexpr int kMaxLinks = 40;  // as in the kernel

bool IsSlow(absl::string_view type) {
  for (const absl::string_view slow :
       {"autofs", "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre",
        "ocfs2", "gfs2", "glusterfs"}) {
    if (type == slow) return true;
  }
  return absl::StartsWith(type, "fuse");
}

// Puts the parts of a path before `rest`.
void PutBefore(absl::string_view path, std::deque<std::string>& rest) {
  const std::vector<std::string> parts = absl::StrSplit(path, '/');
  rest.insert(rest.begin(), parts.begin(), parts.end());
}

std::string Joined(absl::string_view path,
                   const std::deque<std::string>& rest) {
  std::string joined(path);
  for (const std::string& part : rest) {
    if (!part.empty() && part != ".") absl::StrAppend(&joined, "/", part);
  }
  return joined;
}

}  // namespace

CarefulLook::CarefulLook(const std::string& mountinfo) {
  // proc(5): the mount point is field 5, the type follows a field "-".
  std::ifstream file(mountinfo);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    for (size_t i = 6; i + 1 < fields.size(); ++i) {
      if (fields[i] != "-") continue;
      std::string point;
      if (IsSlow(fields[i + 1]) && absl::CUnescape(fields[4], &point)) {
        slow_.insert(point);
      }
      break;
    }
  }
}

CarefulLook::Seen CarefulLook::At(const std::string& path) const {
  using What = Seen::What;
  Seen seen;
  std::deque<std::string> rest;
  PutBefore(path, rest);
  int links = 0;
  while (!rest.empty()) {
    const std::string part = rest.front();
    if (part.empty() || part == ".") {
      rest.pop_front();
      continue;
    }
    const std::string whole = Joined(seen.path, rest);
    rest.pop_front();
    if (part == "..") {
      seen.path.resize(seen.path.empty() ? 0 : seen.path.rfind('/'));
      continue;
    }
    const bool in_dev = absl::StartsWith(whole, "/dev/") &&
                        std::find(rest.begin(), rest.end(), "..") == rest.end();
    const std::string next =
        in_dev ? whole : absl::StrCat(seen.path, "/", part);
    if (slow_.contains(next)) return {What::kUnknown, whole, {}};
    const int result = in_dev ? stat(next.c_str(), &seen.status)
                              : lstat(next.c_str(), &seen.status);
    if (result != 0) {
      return {errno == ENOENT ? What::kMissing : What::kUnknown, whole, {}};
    }
    seen.path = next;
    if (in_dev) break;
    if (!S_ISLNK(seen.status.st_mode)) continue;
    // Root's generator would let another user's link name a device or
    // directory to which the export's service gets access.
    if (seen.status.st_uid != 0 && seen.status.st_uid != geteuid()) {
      return {What::kUnknown, whole, {}};
    }
    char target[PATH_MAX];
    const ssize_t size = readlink(next.c_str(), target, sizeof(target));
    if (size <= 0 || ++links > kMaxLinks) return {What::kUnknown, whole, {}};
    const absl::string_view text(target, static_cast<size_t>(size));
    seen.path.resize(text[0] == '/' ? 0 : next.rfind('/'));
    PutBefore(text, rest);
  }
  seen.what = What::kFound;
  if (seen.path.empty()) {
    seen.path = "/";
    if (stat("/", &seen.status) != 0) seen.what = What::kUnknown;
  }
  return seen;
}

}  // namespace nbdinetd
