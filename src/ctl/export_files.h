// The .export files of this machine, beside the units that were made of them.
#ifndef NBDINETD_CTL_EXPORT_FILES_H_
#define NBDINETD_CTL_EXPORT_FILES_H_

#include <string>
#include <vector>

#include "ctl/exports.h"
#include "ctl/where.h"
#include "generator/export_file.h"

namespace nbdinetd::ctl {

// Whose .export files they are.
ManagerScope ScopeOf(const Where& where);

// Adds the exports that have a file, but no units: the file has an error, which
// becomes the reason, or the service manager hasn't been reloaded since.
void AddFilesWithoutUnits(const Where& where,
                          std::vector<ManagedExport>& exports);

// The error in a file, as nbdinetd-generator would report it; empty if it is
// right. Other exports aren't looked at.
std::string ErrorOfFile(const std::string& path, const Where& where);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_EXPORT_FILES_H_
