// The verbs of nbdinetctl.
//
// Each function opens the connections that it needs, prints its result, and
// returns the exit status, or an error for main to print.
#ifndef NBDINETD_CTL_VERBS_H_
#define NBDINETD_CTL_VERBS_H_

#include "absl/status/statusor.h"
#include "ctl/command_line.h"

namespace nbdinetd::ctl {

// Exit statuses; nbdinetctl(1) lists them.
inline constexpr int kSuccess = 0;
inline constexpr int kFailed = 1;
inline constexpr int kNotThere = 3;
inline constexpr int kWrongUsage = 64;

absl::StatusOr<int> List(const CommandLine& line);
absl::StatusOr<int> Connections(const CommandLine& line);
absl::StatusOr<int> History(const CommandLine& line);
absl::StatusOr<int> Disconnect(const CommandLine& line);
absl::StatusOr<int> Drain(const CommandLine& line);
absl::StatusOr<int> Undrain(const CommandLine& line);
absl::StatusOr<int> Enable(const CommandLine& line);
absl::StatusOr<int> Disable(const CommandLine& line);
absl::StatusOr<int> Start(const CommandLine& line);
absl::StatusOr<int> Stop(const CommandLine& line);
absl::StatusOr<int> CheckExports(const CommandLine& line);
absl::StatusOr<int> Copies(const CommandLine& line);
absl::StatusOr<int> Limit(const CommandLine& line);
absl::StatusOr<int> Probe(const CommandLine& line);
absl::StatusOr<int> Metrics(const CommandLine& line);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_VERBS_H_
