// The lock between connections and a merge of a private copy into its base.
//
// A connection with --cow holds it for reading: what its client hasn't written
// is read from the base, which must not change. `nbdinetctl copies merge` holds
// it for writing while it changes the base. It is an open file description lock
// on a byte of its own, near those of ExclusiveLock and image_lock.h, and ends
// with the description.
//
// Other connections lock nothing here: an attacker in a read-only one can lock
// no file. They open the file, and then look; a merge locks first, and then
// looks who has the file open. Of two that begin at the same time, at least one
// therefore sees the other.
//
// System calls: fcntl (F_OFD_SETLK, F_OFD_GETLK). Threads: any.
#ifndef NBDINETD_EXPORT_BASE_LOCK_H_
#define NBDINETD_EXPORT_BASE_LOCK_H_

#include "absl/status/status.h"
#include "export/export.h"

namespace nbdinetd {

// FailedPrecondition: a merge into `base` is under way.
absl::Status CheckNoMerge(const Export& base);

// Keeps merges away from the base of a copy until `base` is destroyed.
// FailedPrecondition: one is under way. Where there are no such locks, nothing
// is locked; a description that others share is only looked at.
absl::Status LockBaseOfCopy(const Export& base);

// Keeps connections with --cow away from `base`, which is open for writing,
// until it is destroyed. 0 or an errno value; EAGAIN: there are some, or
// another merge.
int LockBaseForMerge(const Export& base);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_BASE_LOCK_H_
