// A directory as a catalog: each regular file and block device in it is an
// export under its own name.
//
// Once it is open, nothing but openat2(2) beneath its descriptor, fstatat(2) of
// its entries and getdents64(2) is needed, so that a sandbox can take away all
// the rest.
#ifndef NBDINETD_EXPORT_DIRECTORY_H_
#define NBDINETD_EXPORT_DIRECTORY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "export/catalog.h"

namespace nbdinetd {

// Whether an export of a directory may have this name: one component of a path,
// neither "." nor "..", of 1 to NAME_MAX bytes, and a string in the sense of
// the specification's "Conventions".
bool IsExportFileName(absl::string_view name);

// Opens the directory, and none of its files: each is opened when a client asks
// for it, read-write unless `read_only` (or as far as that is allowed). Files
// that come and go are seen at once. The default export is
// `default_name`, if that isn't empty; it needs not be there.
//
// NotFound when `path` is no directory that can be searched; InvalidArgument
// when `default_name` is no IsExportFileName().
absl::StatusOr<std::unique_ptr<Catalog>> OpenDirectory(
    const std::string& path, bool read_only, const std::string& default_name);

// How a size is told to a person: "1.5 MiB (1572864 bytes)"; the tenth is cut,
// not rounded.
std::string SizeInWords(uint64_t size_bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_DIRECTORY_H_
