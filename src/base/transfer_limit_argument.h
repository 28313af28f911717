// The argument of --max-rate and --max-iops, NUMBER[:BURST].
#ifndef NBDINETD_BASE_TRANSFER_LIMIT_ARGUMENT_H_
#define NBDINETD_BASE_TRANSFER_LIMIT_ARGUMENT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/transfer_limits.h"

namespace nbdinetd {

// Adds a limit: the first one is for both directions together; with a second
// one, which is for writes, the first one is for reads. Returns what is wrong
// with the argument, as part of a sentence; empty if it has been added.
std::string AddTransferLimit(absl::string_view argument,
                             DirectionLimits& limits);

// The arguments that make these limits.
std::vector<std::string> TransferLimitArguments(const DirectionLimits& limits);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_TRANSFER_LIMIT_ARGUMENT_H_
