// The drop-ins of an .export file that nbdinetctl writes: a file for each thing
// that it sets.
#ifndef NBDINETD_CTL_DROP_IN_H_
#define NBDINETD_CTL_DROP_IN_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// The path of the drop-in by which `what`, such as "enabled", is set for the
// export `name`: "/etc/nbdinetd/NAME.export.d/50-enabled.conf". Unimplemented:
// it is a file of another machine.
absl::StatusOr<std::string> DropInPath(const Where& where,
                                       absl::string_view name,
                                       absl::string_view what);

// Writes the drop-in, whole or not at all, with its directory: `keys` are whole
// lines of [Export]. PermissionDenied for a user who may not.
absl::Status WriteDropIn(const std::string& path, absl::string_view keys);

// The whole content of a drop-in, for RestoreDropIn(); nullopt if there is
// none.
std::optional<std::string> ReadDropIn(const std::string& path);
// Writes the content that ReadDropIn() has returned, or removes the drop-in.
absl::Status RestoreDropIn(const std::string& path,
                           const std::optional<std::string>& content);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_DROP_IN_H_
