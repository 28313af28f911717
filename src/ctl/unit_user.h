// Whom a service runs as: its user, groups and capabilities, for a process that
// is to see files as the service would.
#ifndef NBDINETD_CTL_UNIT_USER_H_
#define NBDINETD_CTL_UNIT_USER_H_

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "ctl/properties.h"

namespace nbdinetd::ctl {

struct UnitUser {
  // False if this process is that user, and isn't root: it can't change its
  // groups either.
  bool must_change = false;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  uint64_t capabilities = 0;  // those that CapabilityBoundingSet= leaves
};

// From User=, Group=, SupplementaryGroups= and CapabilityBoundingSet=.
// `of_user`: the service is of a user's manager. NotFound: there is no such
// user or group. Another error: this process can't become that user.
absl::StatusOr<UnitUser> UserOf(const Properties& service, bool of_user);

// Changes this process, which is about to execute a program. False if that
// fails.
bool Become(const UnitUser& user);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_UNIT_USER_H_
