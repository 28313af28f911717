// Jobs of the units of an export.
#ifndef NBDINETD_CTL_UNIT_JOBS_H_
#define NBDINETD_CTL_UNIT_JOBS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ctl/bus.h"

namespace nbdinetd::ctl {

// Runs jobs for these units, and waits for them. An error for the first one
// that fails.
absl::Status RunJobs(Bus& bus, const std::string& method,
                     const std::vector<std::string>& units);

// Whether a listening service lets its connections continue on a reload, as the
// shipped one does: its process exits, and systemd leaves the others alone.
bool HandsOver(Bus& bus, const std::string& service);

// Ends the listening process of a service, but, if it hands over, not its
// connections, as stopping the unit would.
absl::Status StopListener(Bus& bus, const std::string& service);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_UNIT_JOBS_H_
