// The directory into which a generator writes.
//
// A file or link appears under its name when it is whole, and replaces another
// one of that name at once: two generators that write into one directory don't
// mix their output, and none leaves half a unit. Temporary files of another
// generator, which may have the same process id, are left alone.
#ifndef NBDINETD_GENERATOR_OUTPUT_DIRECTORY_H_
#define NBDINETD_GENERATOR_OUTPUT_DIRECTORY_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "generator/units.h"

namespace nbdinetd {

class OutputDirectory {
 public:
  // The directory must exist.
  static absl::StatusOr<OutputDirectory> Open(const std::string& path);

  absl::Status Write(const UnitFile& file) const;
  // Makes the directory that the link's name has, too.
  absl::Status Write(const UnitLink& link) const;

 private:
  OutputDirectory(std::string path, UniqueFd fd);

  // With errno as the reason.
  absl::Status FailedToWrite(const std::string& name) const;
  // Calls `make` with one name of a temporary file after the other, until one
  // isn't taken, and returns it. Empty for a failure, with errno.
  std::string MakeTemporary(
      absl::FunctionRef<bool(const char* name)> make) const;
  // Gives a finished temporary file its name. A failure removes it.
  absl::Status Rename(const std::string& temporary,
                      const std::string& name) const;

  std::string path_;
  UniqueFd fd_;
  // Of the names of temporary files. They are hidden, and no names of units:
  // systemd doesn't look at them.
  std::string prefix_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_OUTPUT_DIRECTORY_H_
