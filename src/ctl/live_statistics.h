// The statistics of connections that are being served, from the memory page of
// their processes (base/statistics_page.h).
//
// A process that its client controls can put any number into its page, and
// another file in its place. Only a regular file of tmpfs is ever opened for
// reading: not a FIFO, on which that would block, nor a device.
#ifndef NBDINETD_CTL_LIVE_STATISTICS_H_
#define NBDINETD_CTL_LIVE_STATISTICS_H_

#include <optional>
#include <string>

#include "absl/types/span.h"
#include "base/statistics.h"
#include "ctl/connections.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// Sets `statistics` of the connections whose processes are of this machine,
// have a page, and let this user read it: in their sandbox, only root.
void ReadLiveStatistics(const Where& where,
                        absl::Span<LiveConnection> connections);

// The statistics of the page among the descriptors of a process. `directory` is
// its /proc/PID/fd.
std::optional<Statistics> ReadStatisticsAmong(int directory);

// The requests by command, as an object of JSON; empty if there were none.
std::string HistogramsJson(const Statistics& statistics);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_LIVE_STATISTICS_H_
