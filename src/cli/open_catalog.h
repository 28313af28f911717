// What the options name, opened: the exports, and the keys of TLS.
#ifndef NBDINETD_CLI_OPEN_CATALOG_H_
#define NBDINETD_CLI_OPEN_CATALOG_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/log.h"
#include "cli/invocation.h"
#include "export/catalog.h"
#include "stream/tls.h"

namespace nbdinetd {

struct Opened {
  std::unique_ptr<Catalog> catalog;
  std::unique_ptr<Tls> tls;  // nullptr with --tls=off
};

// Whether the log is told what is unsafe about the keys. A listener tells it
// once, so that the processes that it forks don't.
enum class KeyWarnings { kTell, kTold };

// What follows when an export can't be opened. A command line that is wrong
// (InvalidArgument) is always an error.
enum class MissingExport {
  kFail,
  kLog,  // it is only logged, and there is no catalog
};

// Opens the exports (FILE, --directory or the files that were handed over) and
// then loads the keys and OpenSSL. Logs which export is read-only though nobody
// asked for that. InvalidArgument says what is wrong with the options; other
// codes, what can't be opened.
absl::StatusOr<Opened> OpenCatalogAndTls(const Invocation& invocation,
                                         MissingExport missing,
                                         KeyWarnings warnings, const Log& log);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPEN_CATALOG_H_
