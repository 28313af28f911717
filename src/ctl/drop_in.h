// The drop-ins of an .export file that nbdinetctl writes: a file for each thing
// that it sets.
#ifndef NBDINETD_CTL_DROP_IN_H_
#define NBDINETD_CTL_DROP_IN_H_

#include <string>

#include "absl/functional/function_ref.h"
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

// "failed to VERB PATH", and why. PermissionDenied for a user who may not, else
// Internal.
absl::Status FileError(int error_number, absl::string_view verb,
                       const std::string& path);

// Writes a file, whole or not at all, with its directory. PermissionDenied for
// a user who may not.
absl::Status WriteWhole(const std::string& path, absl::string_view text);

// Writes the drop-in as WriteWhole() does: `keys` are whole
// lines of [Export]. `check` then says whether the files of the export, as they
// are now, do what they should: it isn't all that nbdinetd-generator reads. If
// they don't, the drop-in becomes what it was before, or is removed, and the
// error is that of `check`. PermissionDenied for a user who may not write.
absl::Status SetDropIn(const std::string& path, absl::string_view keys,
                       absl::FunctionRef<absl::Status()> check);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_DROP_IN_H_
