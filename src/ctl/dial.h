// Connects to the server of an NBD URI.
//
// Threads: any; resolving a name takes a thread of its own, which is left
// behind if its time is over.
#ifndef NBDINETD_CTL_DIAL_H_
#define NBDINETD_CTL_DIAL_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "ctl/nbd_uri.h"

namespace nbdinetd::ctl {

// A connected socket. The addresses of a name are tried in their order, each
// for its share of the time until `deadline` (SteadyNow()). An error has a
// sentence: the reason of the last address.
absl::StatusOr<UniqueFd> Dial(const NbdUri& uri, absl::Time deadline);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_DIAL_H_
