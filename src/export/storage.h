// What stores an export: its row of promises, and whether other hosts may serve
// the same file or device. Threads: any.
#ifndef NBDINETD_EXPORT_STORAGE_H_
#define NBDINETD_EXPORT_STORAGE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <optional>

#include "export/storage_promises.h"

namespace nbdinetd {

struct Storage {
  const StoragePromises* promises = &PromisesOfUnknown();
  // The mount keeps locks on this host, whatever `promises` say.
  bool has_local_locks = false;
  // By --shared, or else by `promises`.
  OtherHosts served_by = OtherHosts::kUnknown;
};

// What was known of one file system before the sandbox was entered.
struct KnownStorage {
  dev_t device;  // st_dev of stat(2)
  Storage storage;
};

// Of the open file `fd`, which has the status `st`: one fstatfs(2). If that
// isn't enough, reads /proc/self/mountinfo, or of a block device /sys, which
// the sandbox forbids.
Storage StorageOf(int fd, const struct stat& st);

// The same in the sandbox, which reads nothing but `known`: what isn't known
// has the careful answer.
Storage StorageInSandbox(int fd, const struct stat& st,
                         const KnownStorage& known);

// `storage` with the administrator's word (--shared); nullopt: with none.
Storage WithShared(Storage storage, std::optional<bool> shared);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_STORAGE_H_
