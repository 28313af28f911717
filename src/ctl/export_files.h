// The .export files of this machine, beside the units that were made of them.
#ifndef NBDINETD_CTL_EXPORT_FILES_H_
#define NBDINETD_CTL_EXPORT_FILES_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ctl/exports.h"
#include "ctl/where.h"
#include "generator/export_file.h"

namespace nbdinetd::ctl {

// The manager that the .export files are for.
ManagerScope ScopeOf(const Where& where);

// Adds the exports that have a file, but no units: the file has an error, which
// becomes the reason, or the service manager hasn't been reloaded since.
void AddFilesWithoutUnits(const Where& where,
                          std::vector<ManagedExport>& exports);

// {export: the error in its files, as they are now}, for the exports that have
// one. The next reload of the service manager would take their units away.
std::map<std::string, std::string> ErrorsOfFiles(const Where& where);

// The error in a file, as nbdinetd-generator would report it; empty if it is
// right. Other exports aren't looked at.
std::string ErrorOfFile(const std::string& path, const Where& where);

// Whether the files of an export, as they are now, enable it (`enabled`), or
// disable it. The error says which setting does the opposite, or why
// nbdinetd-generator makes no units that start.
absl::Status CheckEnabled(const Where& where, const std::string& name,
                          bool enabled);

// Whether the files of an export, as they are now, make `values` those of the
// list `key` in [Export]. The error says which setting adds to them, or why
// nbdinetd-generator makes no units that start.
absl::Status CheckList(const Where& where, const std::string& name,
                       absl::string_view key,
                       const std::vector<std::string>& values);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_EXPORT_FILES_H_
