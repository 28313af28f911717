// The files of kept copies (--cow=keep), as `nbdinetctl copies` sees to them.
//
// What changes a copy or its base takes the copy's lock first, as a connection
// does: a copy in use is left alone. Threads: one.
#ifndef NBDINETD_CTL_COPY_FILES_H_
#define NBDINETD_CTL_COPY_FILES_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "export/kept_header.h"

namespace nbdinetd::ctl {

struct CopyFile {
  std::string directory;
  std::string name;
  // nullopt: the file is no copy, or can't be read; `reason` says why.
  std::optional<KeptHeader> header = {};
  uint64_t stored_bytes = 0;  // of storage
  int64_t last_used = 0;      // in seconds since 1970
  std::optional<pid_t> holder =
      {};  // in use; 0: by a process that isn't visible
  // "kept", "in use", "stale", "merging" or "damaged".
  std::string state = {};
  std::string reason = {};  // why it is stale or damaged; empty otherwise

  std::string path() const { return directory + "/" + name; }
};

// The copies of a directory, by name. NotFound: there is no such directory;
// PermissionDenied, or another code, when it can't be read.
absl::StatusOr<std::vector<CopyFile>> CopiesIn(const std::string& directory);

// Deletes a copy. FailedPrecondition: it is in use.
absl::Status DiscardCopy(const CopyFile& copy);

// Writes what the copy has into its base, and deletes it. A merge that has been
// cut short goes on. FailedPrecondition: the copy or the base is in use, or has
// changed.
absl::Status MergeCopy(const CopyFile& copy);

// Writes what the client sees to a new file. AlreadyExists: there is one.
// `*warning` is set if the base has changed since the copy was made.
absl::Status ExportCopy(const CopyFile& copy, const std::string& path,
                        std::string* warning);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_COPY_FILES_H_
