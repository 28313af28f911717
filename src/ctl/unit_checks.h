// Checks an export from its units' point of view, on the machine that runs
// them.
#ifndef NBDINETD_CTL_UNIT_CHECKS_H_
#define NBDINETD_CTL_UNIT_CHECKS_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "ctl/bus.h"
#include "ctl/exports.h"
#include "ctl/finding.h"
#include "ctl/properties.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// Its state, units that are older than their files, addresses that are in use,
// also by another of `exports`.
std::vector<Finding> CheckSocket(Bus& bus, const ManagedExport& target,
                                 absl::Span<const ManagedExport> exports);

// What the service's settings hide or forbid of `path`, which is served
// read-write if `writable`: DevicePolicy=, DeviceAllow=, ProtectHome=,
// PrivateTmp=, ProtectSystem=; and files of LoadCredential= that are missing.
std::vector<Finding> CheckService(const Properties& service,
                                  const std::string& path, bool writable);

// Runs "nbdinetd --check" as the service would run nbdinetd: the same program,
// arguments, user, groups, capabilities and $STATE_DIRECTORY. "ok" is the only
// finding if clients would be served as it is meant. With `asked`, WHOs as --as
// has them, the findings also say what that client would get of the export, and
// an error is that it gets nothing.
std::vector<Finding> CheckHandler(const Properties& service,
                                  const ManagedExport& target,
                                  const Where& where,
                                  const std::vector<std::string>& asked);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_UNIT_CHECKS_H_
