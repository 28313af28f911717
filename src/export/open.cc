#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "export/block_device.h"
#include "export/export.h"
#include "export/file.h"

namespace nbdinetd {
namespace {

// O_NONBLOCK: a FIFO must not wait for a writer, nor a tape rewind.
constexpr int kOpenFlags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

bool OnlyWritingIsRefused(int error_number) {
  return error_number == EACCES || error_number == EPERM ||
         error_number == EROFS || error_number == ETXTBSY;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Export>> OpenExport(
    const std::string& path, bool read_only, std::string* read_only_reason) {
  const auto no_input = [&](absl::string_view reason) {
    return absl::NotFoundError(
        absl::StrCat("failed to open ", Quoted(path), ": ", reason));
  };
  UniqueFd fd;
  int error = 0;
  if (!read_only) {
    fd.Reset(open(path.c_str(), O_RDWR | kOpenFlags));
    error = fd.valid() ? 0 : errno;
    if (OnlyWritingIsRefused(error)) {
      read_only = true;
      *read_only_reason = ErrnoText(error);
    }
  }
  if (!fd.valid() && read_only) {
    fd.Reset(open(path.c_str(), O_RDONLY | kOpenFlags));
    error = fd.valid() ? 0 : errno;
  }
  struct stat st;
  if (fd.valid() && fstat(fd.get(), &st) != 0) error = errno;
  if (error == EISDIR) return no_input("it is a directory");
  if (error != 0) return no_input(ErrnoText(error));

  if (S_ISREG(st.st_mode)) {
    return FileExport::Create(path, std::move(fd), st, read_only);
  }
  if (S_ISBLK(st.st_mode)) {
    if (!read_only && BlockDeviceExport::IsReadOnly(fd.get())) {
      read_only = true;
      *read_only_reason = "the block device is read-only";
    }
    return BlockDeviceExport::Create(path, std::move(fd), read_only);
  }
  return no_input(S_ISDIR(st.st_mode)
                      ? "it is a directory"
                      : "it is neither a regular file nor a block device");
}

}  // namespace nbdinetd
