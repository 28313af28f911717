#include "cli/open_served.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <utility>

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
  std::unique_ptr<TableReader> tables;
  if (settings.partition.has_value()) {
    absl::StatusOr<std::unique_ptr<TableReader>> started =
        TableReader::Start(kDefaultSandbox);
    if (!started.ok()) return started.status();
    tables = *std::move(started);
  }
  // What was looked at, and nothing that has taken its path.
  const std::string link = absl::StrCat("/proc/self/fd/", place.get());
  std::string read_only_reason;
  absl::StatusOr<std::unique_ptr<Export>> opened =
      OpenExportWith([&](int flags) { return open(link.c_str(), flags); }, path,
                     settings, &read_only_reason, tables.get());
  if (tables != nullptr) TableReader::End(std::move(tables));
  if (!opened.ok()) return opened.status();
  return *std::move(opened);
}

absl::StatusOr<std::shared_ptr<Export>> OpenServedOf(
    const std::string& directory, const std::string& name,
    const ExportSettings& settings, bool partitions) {
  std::unique_ptr<TableReader> tables;
  if (partitions) {
    absl::StatusOr<std::unique_ptr<TableReader>> started =
        TableReader::Start(kDefaultSandbox);
    if (!started.ok()) return started.status();
    tables = *std::move(started);
  }
  absl::StatusOr<Catalog::Opened> opened;
  {
    absl::StatusOr<std::unique_ptr<Catalog>> catalog =
        OpenDirectory(directory, settings, "", std::move(tables));
    if (!catalog.ok()) return catalog.status();
    opened = (*catalog)->Open(name);
  }
  // The process that reads tables has the file open until it ends.
  while (partitions && waitpid(-1, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!opened.ok()) return opened.status();
  return std::move(opened->target);
}

}  // namespace nbdinetd
