// The drop-in by which `enable` and `disable` set Enabled= of an .export file.
#ifndef NBDINETD_CTL_ENABLE_H_
#define NBDINETD_CTL_ENABLE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nbdinetd::ctl {

// "DIRECTORY/NAME.export.d/50-enabled.conf"
std::string EnabledDropIn(absl::string_view directory, absl::string_view name);

// Writes the drop-in, whole or not at all, with its directory.
// PermissionDenied for a user who may not.
absl::Status WriteEnabledDropIn(const std::string& path, bool enabled);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_ENABLE_H_
