// The error of a call of the data path: an errno value, and one detail.
//
// A truncated file has no errno value of its own: the block layer uses each
// candidate for something else. The client gets NBD_EIO, and a message with the
// cause. Threads: a plain value.
#ifndef NBDINETD_EXPORT_STORAGE_ERROR_H_
#define NBDINETD_EXPORT_STORAGE_ERROR_H_

#include <cerrno>

namespace nbdinetd {

struct StorageError {
  // `errno_value` is one of the system's; 0 is success. Implicit, since most
  // calls of the data path return only an errno value.
  constexpr StorageError(int errno_value = 0)  // NOLINT(runtime/explicit)
      : number(errno_value) {}

  // The file ends inside the export: it was truncated after it was opened.
  static constexpr StorageError Truncated() {
    StorageError error(EIO);
    error.truncated = true;
    return error;
  }

  explicit constexpr operator bool() const { return number != 0; }
  friend constexpr bool operator==(const StorageError&,
                                   const StorageError&) = default;

  int number;
  bool truncated = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_STORAGE_ERROR_H_
