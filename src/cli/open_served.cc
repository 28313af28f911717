#include "cli/open_served.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cerrno>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/unique_fd.h"
#include "export/catalog.h"
#include "export/directory.h"
#include "export/open.h"
#include "partition/table_reader.h"
#include "sandbox/sandbox.h"

namespace nbdinetd {
namespace {

using OpenedExport = absl::StatusOr<std::shared_ptr<Export>>;

// Calls `open_with` with a reader of partition tables if one is needed, and
// with nullptr otherwise. The reader's process is over afterwards, if it can
// end: it has the file open as long as it lives.
OpenedExport OpenWithTables(
    bool needed,
    absl::FunctionRef<OpenedExport(std::unique_ptr<TableReader>)> open_with) {
  if (!needed) return open_with(nullptr);
  absl::StatusOr<std::unique_ptr<TableReader>> tables =
      TableReader::Start(kDefaultSandbox);
  if (!tables.ok()) return tables.status();
  const pid_t process = (*tables)->process();
  OpenedExport opened = open_with(*std::move(tables));
  TableReader::EndProcess(process);
  return opened;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Export>> OpenServedFile(
    const std::string& path, const ExportSettings& settings) {
  const UniqueFd place(open(path.c_str(), O_PATH | O_CLOEXEC));
  struct stat st;
  if (!place.valid() || FileStatus(place.get(), &st) != 0) {
    return OpenErrorStatus(errno, path);
  }
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(path),
                     " is neither a regular file nor a block device, and isn't "
                     "opened"));
  }
  // This leads to the file that was looked at, whatever has its path now.
  const std::string link = absl::StrCat("/proc/self/fd/", place.get());
  return OpenWithTables(
      settings.partition.has_value(),
      [&](std::unique_ptr<TableReader> tables) -> OpenedExport {
        std::string read_only_reason;
        return OpenExportWith(
            [&](int flags) { return open(link.c_str(), flags); }, path,
            settings, &read_only_reason, tables.get());
      });
}

absl::StatusOr<std::shared_ptr<Export>> OpenServedOf(
    const std::string& directory, const std::string& name,
    const ExportSettings& settings, bool partitions) {
  return OpenWithTables(
      partitions, [&](std::unique_ptr<TableReader> tables) -> OpenedExport {
        const absl::StatusOr<std::unique_ptr<Catalog>> catalog =
            OpenDirectory(directory, settings, "", std::move(tables));
        if (!catalog.ok()) return catalog.status();
        absl::StatusOr<Catalog::Opened> opened = (*catalog)->Open(name);
        if (!opened.ok()) return opened.status();
        return std::move(opened->target);
      });
}

}  // namespace nbdinetd
