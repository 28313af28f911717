// The size that an export has, for programs that don't open it.
#ifndef NBDINETD_CLI_EXPORT_SIZE_H_
#define NBDINETD_CLI_EXPORT_SIZE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "export/export_settings.h"

namespace nbdinetd {

// The size of the export of `path`, whose file or block device has
// `file_bytes`. A partition is looked up in its table, for which the file is
// opened. nullopt when it has no such part, or can't be read. Threads: one.
std::optional<uint64_t> ExportSize(const ExportSettings& settings,
                                   const std::string& path,
                                   uint64_t file_bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_EXPORT_SIZE_H_
