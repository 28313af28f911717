#include "absl/status/statusor.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
absl::StatusOr<int> CheckExports(const CommandLine&) { return kSuccess; }
}  // namespace nbdinetd::ctl
