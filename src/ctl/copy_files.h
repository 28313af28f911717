// The files of kept copies (--cow=keep), as `nbdinetctl copies` sees to them.
//
// Each function that deletes or reads a copy takes its lock first, as a
// connection does: a
// copy in use is left alone. The process of a connection writes the header, and
// an attacker may control that: the base that it names is only read, and only
// if it is a regular file or a block device; copy_base.h says what a merge
// writes to. Threads: one.
#ifndef NBDINETD_CTL_COPY_FILES_H_
#define NBDINETD_CTL_COPY_FILES_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
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

// The copies of a directory, by name; nothing else of them is known. NotFound:
// there is no such directory; PermissionDenied, or another code, when it can't
// be read.
absl::StatusOr<std::vector<CopyFile>> CopiesIn(const std::string& directory);

// Reads the header of a copy, compares its base, and fills in the rest.
void LookAt(CopyFile& copy);

// A copy that nobody else uses, until this is destroyed.
struct LockedCopy {
  UniqueFd fd;
  FoundHeader found;
};
// FailedPrecondition: it is in use, or no copy.
absl::StatusOr<LockedCopy> LockCopy(const CopyFile& copy);
// Deletes a copy that is locked, at `fd`, and waits until that is on stable
// storage. FailedPrecondition: the name is another file's.
absl::Status DeleteCopy(const CopyFile& copy, int fd);

// Deletes a copy. FailedPrecondition: it is in use. Opens no base.
absl::Status DiscardCopy(const CopyFile& copy);

// Writes what the client sees to a new file. AlreadyExists: there is one.
// FailedPrecondition: the copy is in use, or its base can't be used, or nobody
// knows where in its file that lies. `*warning` is set if the base has changed
// since the copy was made, or if a part of the copy is lost.
absl::Status ExportCopy(const CopyFile& copy, const std::string& path,
                        std::string* warning);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_COPY_FILES_H_
