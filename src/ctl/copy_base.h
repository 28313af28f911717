// The base of a kept copy, by the definition of the export that it is a copy
// of, and alone with it.
//
// The process of a connection writes the header of a copy, and an attacker may
// control that. A merge therefore never writes to the file that the header
// names: the administrator has named it, in the export's unit or on the command
// line. Threads: one.
#ifndef NBDINETD_CTL_COPY_BASE_H_
#define NBDINETD_CTL_COPY_BASE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "ctl/copy_files.h"
#include "ctl/exports.h"
#include "ctl/where.h"
#include "export/export.h"
#include "export/kept_header.h"

namespace nbdinetd::ctl {

// Whether two paths lead to one directory.
bool IsSameDirectory(const std::string& a, const std::string& b);

// The directory that the manager names to the export's service in
// $STATE_DIRECTORY, and makes when the service first starts; empty without one.
std::string StateDirectoryOf(const ManagedExport& target, const Where& where);

// The directory where the export keeps its copies; empty if it keeps none, or
// if nobody knows where.
std::string CopyDirectoryOf(const ManagedExport& target, const Where& where);

// The base, open for writing, of a copy with this header in `directory`: that
// of the one export that keeps its copies there and that the owner belongs to.
// FailedPrecondition: there is none, or several with different files, or its
// file can't be told from the unit. Other errors as for opening it.
absl::StatusOr<std::shared_ptr<Export>> OpenDefinedBase(
    const std::vector<ManagedExport>& exports, const Where& where,
    const std::string& directory, const KeptHeader& header);

// Whether a copy in `directory` with this owner may be one of the file of
// `base`, whatever its header says: no unit that keeps its copies there says
// that the owner's is another.
bool MayBeCopyOf(const std::vector<ManagedExport>& exports, const Where& where,
                 const std::string& directory, const KeptOwner& owner,
                 const Export& base);

// The file that the administrator has named, open for writing, as the base of a
// copy with this header. FailedPrecondition: the copy is of a part of a file,
// whose place only the header knows.
absl::StatusOr<std::shared_ptr<Export>> OpenNamedBase(const std::string& path,
                                                      const KeptHeader& header);

// Keeps others away from the base, as long as it and the result, a descriptor
// or none, are open. FailedPrecondition: others use it; the message says who,
// if that is visible.
absl::StatusOr<UniqueFd> LockBaseAlone(const Export& base);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_COPY_BASE_H_
