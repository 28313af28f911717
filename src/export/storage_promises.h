// What may be promised of an export, by the file system or block device that
// stores it: a table with one row each. doc/storage-promises.md shows it, with
// what a column means to a client and to an administrator; a test holds the two
// together.
//
// A row that isn't certain has the careful answer: other hosts can reach the
// storage, nothing holds across hosts, and its holes count only after a sync.
// Threads: any, since it is immutable.
#ifndef NBDINETD_EXPORT_STORAGE_PROMISES_H_
#define NBDINETD_EXPORT_STORAGE_PROMISES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "export/extents.h"

namespace nbdinetd {

// Whether other hosts can serve the same file or device at the same time.
enum class OtherHosts {
  kNo,
  kUnknown,  // a disk of a storage network looks like a local one
  kYes,
};

// What a success of fdatasync(2) means.
enum class Durability {
  kStable,   // the data is on stable storage
  kServer,   // the program or machine that stores it has said so
  kNothing,  // nothing is left after a loss of power
};

struct StoragePromises {
  const char* name;  // for messages
  // Of a file system, f_type of statfs(2); 0 for a block device.
  uint64_t magic;
  // One file system of several with that `magic`, by its type in
  // /proc/self/mountinfo; of a block device, the kernel's name without its
  // number. nullptr: the others.
  const char* type;
  OtherHosts reached_by;
  // NBD_FLAG_CAN_MULTI_CONN: what one connection has written, and any of them
  // has flushed, is what all of them read. Between processes of one host; and
  // between hosts, with the page cache, and beside it (--cache=none).
  bool coherent_on_host;
  bool coherent_between_hosts;
  bool coherent_when_direct;
  // Open file description locks exclude processes of other hosts, unless the
  // mount has one of `local_locks`, mount options with commas between them.
  bool locks_reach_hosts;
  const char* local_locks;
  Durability durability;
  ExtentSource holes;
  // Other hosts see a write soon only if it passes by the page cache: the
  // default of --cache, where other hosts may serve the export.
  bool direct_by_default;
};

absl::Span<const StoragePromises> StoragePromisesTable();

// The row for a file system; `type` is that of /proc/self/mountinfo, and empty
// if it isn't known.
const StoragePromises& PromisesOfFileSystem(uint64_t magic,
                                            absl::string_view type);
// Whether only the type tells what PromisesOfFileSystem() would return, or the
// options of the mount what the row's locks are worth.
bool DependsOnMount(uint64_t magic);

// The row for a block device; `name` is the kernel's, such as sda1, and empty
// if it isn't known.
const StoragePromises& PromisesOfDevice(absl::string_view name);
// The row for a device of the device mapper or of RAID over a device that other
// hosts can reach.
const StoragePromises& PromisesOfMappedNetworkDevice();

// The row for a file system that no other row is about.
const StoragePromises& PromisesOfUnknown();

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_STORAGE_PROMISES_H_
