// The connections that have ended, from the journal.
//
// Most end with a message that has their counters. The process of one that was
// killed, or has crashed, writes none: what remains of it is the message with
// which it began.
#ifndef NBDINETD_CTL_PAST_CONNECTIONS_H_
#define NBDINETD_CTL_PAST_CONNECTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ctl/bus.h"
#include "ctl/journal.h"
#include "ctl/status_text.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// A connection whose client had chosen an export. Texts are empty, and optional
// values absent, where the journal doesn't have them.
struct PastConnection {
  std::string unit;
  std::optional<uint64_t> pid;
  std::string peer, identity;
  std::string asked_name;  // the name that the client asked for
  std::string file, mode;
  absl::Time since;
  std::optional<absl::Time> until;
  std::optional<absl::Duration> duration;
  std::optional<Counters> counters;
  std::optional<uint64_t> exit_status;
  std::string reason;

  // The end, or, if that isn't known, the beginning.
  absl::Time time() const { return until.value_or(since); }
};

// The connections with since <= time() < until, the first one first. `bus`
// tells whether a process without a last message lives; without it (nullptr),
// those of this boot that may live are left out. Waits up to a second for the
// last message of a process that has just ended. An error is one of reading the
// journal.
absl::StatusOr<std::vector<PastConnection>> FindPastConnections(
    Journal& journal, const Where& where, Bus* bus, absl::Time since,
    absl::Time until);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_PAST_CONNECTIONS_H_
