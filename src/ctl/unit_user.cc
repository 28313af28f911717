#include "ctl/unit_user.h"

#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace nbdinetd::ctl {
namespace {

// systemd takes numbers, too, but only those of users that exist.
const passwd* FindUser(const std::string& name) {
  uint32_t uid = 0;
  return absl::SimpleAtoi(name, &uid) ? getpwuid(uid) : getpwnam(name.c_str());
}

absl::StatusOr<gid_t> FindGroup(const char* setting, const std::string& name) {
  uint32_t gid = 0;
  const group* found =
      absl::SimpleAtoi(name, &gid) ? getgrgid(gid) : getgrnam(name.c_str());
  if (found != nullptr) return found->gr_gid;
  return absl::NotFoundError(
      absl::StrCat(setting, "=", name, ": there is no such group"));
}

absl::Status AddGroups(const passwd* user, const Properties& service,
                       UnitUser& result) {
  if (user != nullptr) {
    int count = 0;
    getgrouplist(user->pw_name, user->pw_gid, nullptr, &count);
    result.groups.resize(static_cast<size_t>(count));
    getgrouplist(user->pw_name, user->pw_gid, result.groups.data(), &count);
  }
  for (const std::string& name :
       service.Get<std::vector<std::string>>("SupplementaryGroups")) {
    const absl::StatusOr<gid_t> gid = FindGroup("SupplementaryGroups", name);
    if (!gid.ok()) return gid.status();
    result.groups.push_back(*gid);
  }
  const std::string group = service.Get<std::string>("Group");
  if (group.empty()) return absl::OkStatus();
  const absl::StatusOr<gid_t> gid = FindGroup("Group", group);
  if (!gid.ok()) return gid.status();
  result.gid = *gid;
  return absl::OkStatus();
}

// The capabilities that a program of root gets are limited by the bounding set;
// those that it would inherit are not.
void DropCapabilities(uint64_t kept) {
  for (unsigned long capability = 0; capability < 64; ++capability) {
    // Fails for numbers that the kernel doesn't know.
    if ((kept >> capability & 1) == 0) prctl(PR_CAPBSET_DROP, capability);
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return;
  data[0].inheritable = data[1].inheritable = 0;
  syscall(SYS_capset, &header, data);
}

}  // namespace

absl::StatusOr<UnitUser> UserOf(const Properties& service, bool of_user) {
  const std::string name = service.Get<std::string>("User");
  if (service.Get<bool>("DynamicUser")) {
    return absl::UnimplementedError(
        "what its user may open isn't checked: with DynamicUser=yes there is "
        "one only while the service runs");
  }
  if (service.Get<uint64_t>("AmbientCapabilities") != 0 && !name.empty()) {
    return absl::UnimplementedError(
        "what its user may open isn't checked: AmbientCapabilities= gives it "
        "more rights");
  }
  UnitUser result;
  result.uid = of_user ? getuid() : 0;
  result.gid = of_user ? getgid() : 0;
  const passwd* user = nullptr;
  if (!name.empty()) {
    user = FindUser(name);
    if (user == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("User=", name, ": there is no such user"));
    }
    result.uid = user->pw_uid;
    result.gid = user->pw_gid;
  }
  absl::Status status = AddGroups(user, service, result);
  if (!status.ok()) return status;
  result.capabilities = service.Get<uint64_t>("CapabilityBoundingSet");
  result.must_change = geteuid() == 0;
  if (!result.must_change && result.uid != geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat(
        "what nbdinetd may open isn't checked, since only root can do that as "
        "User=",
        name.empty() ? "root" : name, ": run nbdinetctl as root"));
  }
  return result;
}

bool Become(const UnitUser& user) {
  if (!user.must_change) return true;
  DropCapabilities(user.capabilities);
  return setgroups(user.groups.size(), user.groups.data()) == 0 &&
         setgid(user.gid) == 0 && setuid(user.uid) == 0;
}

}  // namespace nbdinetd::ctl
