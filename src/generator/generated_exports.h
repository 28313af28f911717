// All exports of a system or of a user: from the files to the units.
#ifndef NBDINETD_GENERATOR_GENERATED_EXPORTS_H_
#define NBDINETD_GENERATOR_GENERATED_EXPORTS_H_

#include <vector>

#include "absl/status/status.h"
#include "generator/export_file.h"
#include "generator/units.h"

namespace nbdinetd {

struct GeneratedExport {
  ExportSources sources;
  absl::Status status;  // an error is a line that begins with a file's path
  ExportUnits units;    // none after an error in the files
};

// Reads the exports and makes their units. Of two exports that are enabled and
// listen on one address, the later one has the error, and units without links:
// nothing starts it, but a socket that listens already keeps its service.
std::vector<GeneratedExport> GenerateExports(
    const std::vector<ExportSources>& exports, ManagerScope scope);

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_GENERATED_EXPORTS_H_
