// A directory as a catalog: each regular file and block device in it is an
// export under its file name, and so is each symbolic link to one that stays
// inside of the directory. With a TableReader, FILE:N is partition N of FILE,
// unless there is a file of that whole name; a list doesn't have it, since each
// file would have to be opened and read.
//
// After OpenDirectory(), the catalog needs only openat2(2) beneath its
// descriptor, fstatat(2) on its entries, and getdents64(2), so that the sandbox
// can forbid other ways to open files.
#ifndef NBDINETD_EXPORT_DIRECTORY_H_
#define NBDINETD_EXPORT_DIRECTORY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "export/catalog.h"
#include "export/export_settings.h"
#include "partition/table_reader.h"

namespace nbdinetd {

// Whether `name` can be the file name of an export: one path component of 1 to
// NAME_MAX bytes, neither "." nor "..", and a valid string (the specification,
// "Conventions").
bool IsExportFileName(absl::string_view name);

// Opens the directory but none of its files. Open() of the catalog opens a
// file: read-only if `settings` say so or when only that is permitted,
// read-write otherwise. Each call uses the current content of the directory.
// `default_name` is the default export, which need not exist; empty for none.
// `tables` reads the tables of partitions; nullptr: none can be chosen.
//
// NotFound when `path` is no searchable directory; InvalidArgument when
// `default_name` is no IsExportFileName(); Internal when the process lacks
// descriptors, memory or openat2(2).
absl::StatusOr<std::unique_ptr<Catalog>> OpenDirectory(
    const std::string& path, const ExportSettings& settings,
    const std::string& default_name,
    std::unique_ptr<TableReader> tables = nullptr);

// A size for people: "1.5 MiB (1572864 bytes)". The tenth is cut off, not
// rounded.
std::string SizeInWords(uint64_t size_bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_DIRECTORY_H_
