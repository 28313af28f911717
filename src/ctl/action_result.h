// What a verb that changes an export prints: the export, and what was done.
#ifndef NBDINETD_CTL_ACTION_RESULT_H_
#define NBDINETD_CTL_ACTION_RESULT_H_

#include <string>

#include "absl/status/statusor.h"
#include "ctl/command_line.h"

namespace nbdinetd::ctl {

// Returns the exit status, or an error if it can't be printed.
absl::StatusOr<int> PrintResult(const CommandLine& line,
                                const std::string& export_name,
                                const std::string& result);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_ACTION_RESULT_H_
