// The connections of exports, now.
#ifndef NBDINETD_CTL_CONNECTIONS_H_
#define NBDINETD_CTL_CONNECTIONS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/statistics.h"
#include "ctl/bus.h"
#include "ctl/exports.h"
#include "ctl/journal.h"
#include "ctl/status_text.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// A connection: a unit with Accept=yes, a process of the service otherwise.
struct LiveConnection {
  std::string export_name;  // of the Export
  std::string unit;
  bool per_connection = false;
  std::optional<uint64_t> pid;
  // Empty while it isn't known: the process has just started, or the journal
  // can't be read.
  std::string peer;
  std::string identity;
  // The name that the client asked for, and the counters: not during
  // negotiation. The processes of a listening service report no counters.
  std::optional<std::string> asked_name;
  std::optional<Counters> counters;
  std::optional<absl::Time> since;
  // Set by ReadLiveStatistics() alone.
  std::optional<Statistics> statistics;
};

// The messages at the end of a process that served, the newest first.
// Requires a process id.
JournalQuery LastMessagesOf(const LiveConnection& connection);

struct LiveConnections {
  std::vector<LiveConnection> connections;
  // Why peers of a listening service aren't known; OK if they are.
  absl::Status journal = absl::OkStatus();
};

// The connections of these exports, in the order of the exports.
absl::StatusOr<LiveConnections> FindConnections(
    Bus& bus, const Where& where, absl::Span<const ManagedExport> exports);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_CONNECTIONS_H_
