// A kept copy (--cow=keep): what one client has written, in a file that stays
// when the connection ends.
//
// kept_header.h has the file's format, kept_map.h says how it survives crashes.
// The functions expect the lock on the file (ExclusiveLock). Threads: one.
#ifndef NBDINETD_EXPORT_KEPT_COPY_H_
#define NBDINETD_EXPORT_KEPT_COPY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "export/export.h"
#include "export/kept_header.h"
#include "export/kept_map.h"
#include "export/kept_name.h"

namespace nbdinetd {

// The identity of this start of the machine; empty if it can't be read
// (ProcSubset=pid): a copy then trusts only what was flushed.
std::string ReadBootId();

// The facts of a kept copy of an export with `facts`.
Export::Facts KeptFacts(const Export::Facts& facts);

// Where an export lies in its file; of no length if nobody knows.
Export::Origin PlaceOf(const Export& base);

// By what an export of `path`, an absolute one, is known that has no name:
// parts of one file are different exports.
std::string PathAndPlace(const Export& base, const std::string& path);

// The map of the copy at `fd`, which isn't a clone: the live one if it is of
// this start of the machine, `boot_id`. nullptr and `*error`, an errno value,
// on failure; if that is a sync, the header says that something is lost.
std::unique_ptr<KeptMap> OpenKeptMap(int fd, FoundHeader& found,
                                     const std::string& boot_id, int* error);

struct NewCopy {
  KeptOwner owner;
  std::string base_path;  // absolute, or a name for messages
  std::string boot_id;
  // A clone would share its storage with the base, and could not be limited.
  bool may_be_clone = true;
};
// Makes a copy of `base`, to which nothing has been written, of the file `fd`,
// and waits until it is on stable storage. Its header; Internal when that
// fails.
absl::StatusOr<FoundHeader> MakeCopy(int fd, Export& base, const NewCopy& copy);

// The header of the copy at `fd`, if `owner` may go on writing into it.
// DataLoss: it is damaged, or no copy. PermissionDenied: it is another's.
// FailedPrecondition: a merge of it has begun, or the storage has lost a part
// of it. Aborted: `base` has changed; the message says what of it.
absl::StatusOr<FoundHeader> CheckCopy(int fd, Export& base,
                                      const KeptOwner& owner);

struct ServedCopy {
  FoundHeader found;
  std::string boot_id;
  uint64_t max_bytes;
  Storage storage = {};  // of the copy
};
// The copy at `fd`, whose header is `copy.found`, as an export. `base` is what
// it is a copy of. Internal when it can't be read.
absl::StatusOr<std::shared_ptr<Export>> OpenCopy(UniqueFd fd,
                                                 std::shared_ptr<Export> base,
                                                 ServedCopy copy);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_COPY_H_
