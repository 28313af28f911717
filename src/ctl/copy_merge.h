// `nbdinetctl copies merge`. Threads: one.
#ifndef NBDINETD_CTL_COPY_MERGE_H_
#define NBDINETD_CTL_COPY_MERGE_H_

#include "absl/status/status.h"
#include "ctl/command_line.h"
#include "ctl/copy_files.h"

namespace nbdinetd::ctl {

// Writes a copy into its base, as `line` wants it, and deletes it. The locks on
// both are taken before they are compared. FailedPrecondition: it can't, or
// must not be; nothing has been changed. After another error, the copy is still
// there, and a message says if the base may be changed in part.
absl::Status MergeCopy(const CommandLine& line, const CopyFile& copy);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_COPY_MERGE_H_
