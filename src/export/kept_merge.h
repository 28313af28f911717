// Writes what a client has written into its kept copy into the base.
//
// A merge that is cut short by a crash, a loss of power or an error of the
// storage is repeated from its beginning, and ends as if it hadn't been cut
// short:
//
// - Before the base's first byte is changed, the copy's map is made durable,
// and
//   the header says that a merge has begun, in both slots. Such a copy isn't
//   served. All of the copy has been read by then: one that can't be read
//   changes nothing.
// - The base's time of change is then set, durably: other copies of a file are
//   stale whatever of it the storage has got by the end of the power. A block
//   device has no such time, and must have no other copies.
// - A block of the base is changed only if the copy has all of it. What the
//   client sees is therefore the same before, in and after a merge, and so is
//   all that the header remembers of the base (KeptHeader::Merge). By this, and
//   not by times and digests of the base, a repeated merge knows that the base
//   is the one that the first began to change.
// - After an error, the page cache may have bytes that the storage lacks. A
//   repeated merge therefore writes all blocks of the copy, whatever the base
//   seems to have. Only the first merge of a clone, which has no map, compares.
// - The merge has ended when the base has been synced, its time included: the
//   copies that are made next remember that. Whoever called it then deletes the
//   copy.
// - A sync of the copy that fails says that the storage has lost a part of it,
//   and no later one says so again. The header does: such a copy is no longer
//   merged.
//
// A merge that was cut short is repeated. Writes of others to the base in
// between are noticed only in its first and last MiB, and nowhere under blocks
// that the copy has: with a clone, which has all of them, never. The repetition
// writes over them, or leaves them.
//
// The functions expect the lock on the copy (ExclusiveLock), and that nobody
// else has the base open (base_lock.h, image_lock.h). Threads: one.
#ifndef NBDINETD_EXPORT_KEPT_MERGE_H_
#define NBDINETD_EXPORT_KEPT_MERGE_H_

#include <string>

#include "absl/status/status.h"
#include "export/export.h"
#include "export/kept_header.h"

namespace nbdinetd {

// Writes the copy at `fd`, whose header is `found.header`, into `base`, and
// waits until that is on stable storage. FailedPrecondition: `base` isn't what
// the copy is of, or can't be written to; neither is changed. Unavailable: the
// storage failed; the copy still has all, and if the header says that a merge
// has begun, `base` may be changed in part.
absl::Status MergeIntoBase(int fd, FoundHeader& found, Export& base,
                           const std::string& boot_id);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_MERGE_H_
