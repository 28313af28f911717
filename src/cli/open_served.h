// Opens the file of an export as a connection would, for a program that has the
// options of its unit. Threads: one.
#ifndef NBDINETD_CLI_OPEN_SERVED_H_
#define NBDINETD_CLI_OPEN_SERVED_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "export/export.h"
#include "export/export_settings.h"

namespace nbdinetd {

// The file `path`, or the part of it that `settings` name. Only a regular
// file or a block device is opened: opening a watchdog, a tape or a
// FIFO does something. NotFound when there is no such file or part; otherwise
// as OpenExportWith().
absl::StatusOr<std::shared_ptr<Export>> OpenServedFile(
    const std::string& path, const ExportSettings& settings);

// The export `name` of --directory=`directory`, with --partitions if
// `partitions`. Errors as for Catalog::Open().
absl::StatusOr<std::shared_ptr<Export>> OpenServedOf(
    const std::string& directory, const std::string& name,
    const ExportSettings& settings, bool partitions);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPEN_SERVED_H_
