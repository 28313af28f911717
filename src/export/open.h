// Opens a file or a block device as an export.
#ifndef NBDINETD_EXPORT_OPEN_H_
#define NBDINETD_EXPORT_OPEN_H_

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "export/export.h"
#include "export/export_settings.h"
#include "partition/table_reader.h"

namespace nbdinetd {

// Opens `path` by `open_with`, which gets the flags of open(2) and returns a
// descriptor, or -1 and errno. The export is read-only if `settings` say so, or
// when only that is permitted; the reason for the latter is stored in
// `*read_only_reason`, which is otherwise unchanged. Opening never waits. A
// file that is neither a regular file nor a block device is closed at once.
//
// With a partition in `settings`, `tables` reads the table, from an open file
// description of its own; without, it may be nullptr.
//
// NotFound when there is no such file or partition; otherwise as
// OpenErrorStatus() or TableReader::Read().
absl::StatusOr<std::unique_ptr<Export>> OpenExportWith(
    absl::FunctionRef<int(int flags)> open_with, const std::string& path,
    ExportSettings settings, std::string* read_only_reason,
    TableReader* tables = nullptr);

// The status for an errno value of open(2). NotFound: no file to open.
// PermissionDenied: no right to open it. Internal: the process lacks
// descriptors or memory. Unavailable: a fault of the file or the storage.
absl::Status OpenErrorStatus(int error_number, const std::string& path);

// The message for an export that is read-only without --readonly.
std::string ReadOnlyNotice(const std::string& name,
                           const std::string& read_only_reason);

// Opens `path` as OpenExportWith() does, with open(2). NotFound when it can't
// be opened, or is neither a regular file nor a block device. Internal when the
// process lacks descriptors or memory, a block device reports no size, or no
// partition table can be read. FailedPrecondition without libblkid. Cancelled
// when the process was told to end.
// Opening never waits and never operates a device, such as rewinding a tape.
absl::StatusOr<std::unique_ptr<Export>> OpenExport(
    const std::string& path, const ExportSettings& settings,
    std::string* read_only_reason, TableReader* tables = nullptr);

// Opens the file that was handed over as `fd`, which the caller keeps; `name`
// is for messages. The file is opened anew if permitted: the kernel reports a
// lost write once per open file description, and processes that share one would
// take the report from each other. Otherwise `fd` is duplicated. The export is
// read-only if `fd` isn't open for writing. Errors and `*read_only_reason` as
// for OpenExport().
absl::StatusOr<std::unique_ptr<Export>> OpenHandedOver(
    int fd, const std::string& name, ExportSettings settings,
    std::string* read_only_reason, TableReader* tables = nullptr);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_OPEN_H_
