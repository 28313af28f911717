// The exports of a catalog as copies that are kept for each client
// (--cow=keep). Threads: one.
#ifndef NBDINETD_EXPORT_KEPT_CATALOG_H_
#define NBDINETD_EXPORT_KEPT_CATALOG_H_

#include <memory>

#include "absl/status/statusor.h"
#include "export/catalog.h"
#include "export/copy_settings.h"
#include "export/export_settings.h"

namespace nbdinetd {

// The exports of `inner`, which are read-only, as writable ones: a client gets
// its copy of the one that it chooses. With CacheMode::kWritethrough or
// kDirectsync, what it writes is stored when it is answered. InvalidArgument:
// there is no directory for the copies. Other errors as for
// KeptDirectory::Open().
absl::StatusOr<std::unique_ptr<Catalog>> WithKeptCopies(
    std::unique_ptr<Catalog> inner, const CopySettings& settings,
    const ExportSettings& exports);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_CATALOG_H_
