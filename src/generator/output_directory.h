// The directory into which a generator writes.
//
// A file or link appears under its name when it is whole, and replaces another
// one of that name at once: two generators that write into one directory don't
// mix their output, and none leaves half a unit.
#ifndef NBDINETD_GENERATOR_OUTPUT_DIRECTORY_H_
#define NBDINETD_GENERATOR_OUTPUT_DIRECTORY_H_

#include <string>

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

  absl::Status FailedToWrite(const std::string& name) const;
  // Gives the finished file `temporary_` its name.
  absl::Status Rename(const std::string& name) const;

  std::string path_;
  UniqueFd fd_;
  // Hidden, and no name of a unit: systemd doesn't look at it.
  std::string temporary_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_OUTPUT_DIRECTORY_H_
