#include "sandbox/landlock.h"

#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

// Some C libraries' headers lack these. Each ABI version includes the rights of
// earlier ones.
constexpr uint64_t kFsOfVersion1 = (1u << 13) - 1;
constexpr uint64_t kFsRefer = 1u << 13;        // version 2
constexpr uint64_t kFsTruncate = 1u << 14;     // version 3
constexpr uint64_t kNetBindConnect = 3;        // version 4
constexpr uint64_t kFsIoctlDevice = 1u << 15;  // version 5
constexpr uint64_t kScopeAbstractSocket = 1;   // version 6
constexpr uint64_t kScopeSignal = 2;           // version 6

struct Ruleset {
  uint64_t fs = 0;
  uint64_t net = 0;
  uint64_t scoped = 0;
};

// All rights that version `abi` can remove and this connection doesn't need.
Ruleset RulesetOf(long abi, const SandboxFacts& facts) {
  Ruleset ruleset;
  ruleset.fs = kFsOfVersion1;
  if (abi >= 2) ruleset.fs |= kFsRefer;
  if (abi >= 3) ruleset.fs |= kFsTruncate;
  if (abi >= 4) ruleset.net = kNetBindConnect;
  if (abi >= 5) ruleset.fs |= kFsIoctlDevice;
  if (abi >= 6) {
    ruleset.scoped = kScopeAbstractSocket;
    // A takeover sends a signal to the process that holds the export.
    if (!facts.takeover) ruleset.scoped |= kScopeSignal;
  }
  return ruleset;
}

// The size in bytes of the ruleset in version `abi`.
size_t SizeOf(long abi) {
  return abi >= 6   ? sizeof(Ruleset)
         : abi >= 4 ? sizeof(uint64_t) * 2
                    : sizeof(uint64_t);
}

// Allows `access` beneath the directory. Returns 0 or an errno value.
int AddRule(int ruleset_fd, int directory_fd, uint64_t access) {
  landlock_path_beneath_attr rule = {};
  rule.parent_fd = directory_fd;
  rule.allowed_access = access;
  return syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH,
                 &rule, 0) == 0
             ? 0
             : errno;
}

// Allows opening and listing beneath the directory, and ioctl(2) on its block
// devices. Returns 0 or an errno value.
int AllowDirectory(int ruleset_fd, uint64_t handled,
                   const SandboxFacts& facts) {
  uint64_t allowed = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
  if (facts.writable) allowed |= LANDLOCK_ACCESS_FS_WRITE_FILE;
  if (facts.block_devices) allowed |= kFsIoctlDevice;
  return AddRule(ruleset_fd, facts.directory_fd, allowed & handled);
}

// Allows to open copies, to name a new one, and to delete one that is stale.
int AllowCopies(int ruleset_fd, uint64_t handled, const SandboxFacts& facts) {
  constexpr uint64_t kAllowed =
      LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
      LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE;
  return AddRule(ruleset_fd, facts.copies_fd, kAllowed & handled);
}

}  // namespace

int EnterLandlock(const SandboxFacts& facts) {
  const long abi = syscall(SYS_landlock_create_ruleset, nullptr, 0,
                           LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 0) return errno;
  const Ruleset ruleset = RulesetOf(abi, facts);
  const UniqueFd fd(static_cast<int>(
      syscall(SYS_landlock_create_ruleset, &ruleset, SizeOf(abi), 0)));
  if (!fd.valid()) return errno;
  if (facts.directory_fd >= 0) {
    if (const int error = AllowDirectory(fd.get(), ruleset.fs, facts)) {
      return error;
    }
  }
  if (facts.copies_fd >= 0) {
    if (const int error = AllowCopies(fd.get(), ruleset.fs, facts)) {
      return error;
    }
  }
  return syscall(SYS_landlock_restrict_self, fd.get(), 0) == 0 ? 0 : errno;
}

}  // namespace nbdinetd
