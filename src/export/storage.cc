#include "export/storage.h"

#include <dirent.h>
#include <limits.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "export/mount_table.h"

namespace nbdinetd {
namespace {

// How many devices may lie on each other.
constexpr int kMaxDevices = 8;

// The kernel's name of the disk that a block device is, or is a partition of;
// empty if /sys doesn't tell.
std::string DiskName(dev_t device) {
  const std::string path =
      absl::StrCat("/sys/dev/block/", major(device), ":", minor(device));
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  if (length <= 0) return "";
  // ../../devices/virtual/block/dm-0, and of a partition .../block/sda/sda1.
  absl::string_view rest(target, static_cast<size_t>(length));
  constexpr absl::string_view kBlock = "/block/";
  const size_t block = rest.rfind(kBlock);
  if (block != rest.npos) {
    rest.remove_prefix(block + kBlock.size());
  } else {
    // An NVMe disk lies below its controller: .../nvme/nvme0/nvme0n1.
    rest.remove_prefix(rest.rfind('/') + 1);
  }
  return std::string(rest.substr(0, rest.find('/')));
}

bool IsMapped(absl::string_view disk) {
  return absl::StartsWith(disk, "dm-") || absl::StartsWith(disk, "md");
}

// Whether other hosts can reach one of the devices below `disk`.
bool HasNetworkDevice(const std::string& disk, int depth) {
  const std::string path = absl::StrCat("/sys/class/block/", disk, "/slaves");
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()),
                                                   closedir);
  if (folder == nullptr) return false;
  while (const dirent* entry = readdir(folder.get())) {
    const std::string below = entry->d_name;
    if (below == "." || below == "..") continue;
    if (PromisesOfDevice(below).reached_by == OtherHosts::kYes) return true;
    if (!IsMapped(below)) continue;
    if (depth == kMaxDevices || HasNetworkDevice(below, depth + 1)) return true;
  }
  return false;
}

const StoragePromises& PromisesOfDisk(const std::string& disk) {
  return IsMapped(disk) && HasNetworkDevice(disk, 1)
             ? PromisesOfMappedNetworkDevice()
             : PromisesOfDevice(disk);
}

Storage By(const StoragePromises& promises) {
  return {.promises = &promises, .served_by = promises.reached_by};
}

// f_type of statfs(2), or 0, which no file system has.
uint64_t MagicOf(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st) != 0) return 0;
  // On some machines, f_type has 32 bits and a sign.
  return static_cast<uint32_t>(st.f_type);
}

}  // namespace

Storage StorageOf(int fd, const struct stat& st) {
  if (S_ISBLK(st.st_mode)) return By(PromisesOfDisk(DiskName(st.st_rdev)));
  const uint64_t magic = MagicOf(fd);
  if (!DependsOnMount(magic)) return By(PromisesOfFileSystem(magic, ""));
  const std::optional<Mount> mount = FindOwnMount(st.st_dev);
  Storage storage =
      By(PromisesOfFileSystem(magic, mount.has_value() ? mount->type : ""));
  const char* const local = storage.promises->local_locks;
  storage.has_local_locks =
      local != nullptr && (!mount.has_value() || mount->HasOneOf(local));
  return storage;
}

Storage StorageInSandbox(int fd, const struct stat& st,
                         const KnownStorage& known) {
  if (S_ISBLK(st.st_mode)) return By(PromisesOfDevice(""));
  if (st.st_dev == known.device) return known.storage;
  Storage storage = By(PromisesOfFileSystem(MagicOf(fd), ""));
  storage.has_local_locks = storage.promises->local_locks != nullptr;
  return storage;
}

Storage WithShared(Storage storage, std::optional<bool> shared) {
  if (shared.has_value()) {
    storage.served_by = *shared ? OtherHosts::kYes : OtherHosts::kNo;
  }
  return storage;
}

}  // namespace nbdinetd
