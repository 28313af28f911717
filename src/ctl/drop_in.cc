#include "ctl/drop_in.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/unique_fd.h"
#include "ctl/export_files.h"
#include "generator/export_file.h"

namespace nbdinetd::ctl {
namespace {

absl::Status WriteError(int error_number, const std::string& path) {
  return FileError(error_number, "write", path);
}

// Makes the directory, and those that it is in.
absl::Status MakeDirectory(const std::string& path) {
  for (size_t slash = 1; slash != std::string::npos;) {
    slash = path.find('/', slash + 1);
    const std::string part = path.substr(0, slash);
    if (mkdir(part.c_str(), 0755) != 0 && errno != EEXIST) {
      return WriteError(errno, part);
    }
  }
  return absl::OkStatus();
}

// The whole content; nullopt if there is no file.
std::optional<std::string> Read(const std::string& path) {
  std::ifstream file(path);
  if (!file.is_open()) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Writes what Read() has returned, or removes the file.
absl::Status Restore(const std::string& path,
                     const std::optional<std::string>& content) {
  if (content.has_value()) return WriteWhole(path, *content);
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : WriteError(errno, path);
}

}  // namespace

absl::Status FileError(int error_number, absl::string_view verb,
                       const std::string& path) {
  const bool permission = error_number == EACCES || error_number == EPERM;
  absl::Status status = ErrnoStatus(
      error_number, absl::StrCat("failed to ", verb, " ", Quoted(path)),
      permission ? absl::StatusCode::kPermissionDenied
                 : absl::StatusCode::kInternal);
  if (!permission) return status;
  return absl::PermissionDeniedError(
      absl::StrCat(status.message(), ": run nbdinetctl as root"));
}

absl::Status WriteWhole(const std::string& path, absl::string_view text) {
  absl::Status made = MakeDirectory(path.substr(0, path.rfind('/')));
  if (!made.ok()) return made;
  // The generator reads files that end with ".conf".
  const std::string temporary = absl::StrCat(path, ".new");
  UniqueFd fd(
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid()) return WriteError(errno, path);
  const ssize_t n = write(fd.get(), text.data(), text.size());
  const bool whole = n == static_cast<ssize_t>(text.size());
  // The new name must not become durable before the content.
  if (!whole || fsync(fd.get()) != 0 ||
      rename(temporary.c_str(), path.c_str()) != 0) {
    const int error_number = n >= 0 && !whole ? ENOSPC : errno;
    unlink(temporary.c_str());
    return WriteError(error_number, path);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> DropInPath(const Where& where,
                                       absl::string_view name,
                                       absl::string_view what) {
  if (!where.local()) {
    return absl::UnimplementedError(
        absl::StrCat("the drop-in of ", Quoted(name),
                     " is a file of another machine: run nbdinetctl there"));
  }
  const std::vector<std::string> directories =
      ExportDirectories(ScopeOf(where));
  if (directories.empty()) {
    return absl::InternalError("there is no directory for .export files");
  }
  return absl::StrCat(directories[0], "/", name, ".export.d/50-", what,
                      ".conf");
}

absl::Status SetDropIn(const std::string& path, absl::string_view keys,
                       absl::FunctionRef<absl::Status()> check) {
  const std::optional<std::string> before = Read(path);
  absl::Status status = WriteWhole(
      path, absl::StrCat("# Written by nbdinetctl.\n[Export]\n", keys));
  if (!status.ok()) return status;
  status = check();
  if (status.ok()) return status;
  const absl::Status restored = Restore(path, before);
  return restored.ok() ? status : restored;
}

}  // namespace nbdinetd::ctl
