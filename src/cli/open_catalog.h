// Opens the exports and loads the TLS keys that the options name.
#ifndef NBDINETD_CLI_OPEN_CATALOG_H_
#define NBDINETD_CLI_OPEN_CATALOG_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/log.h"
#include "base/shutdown_notice.h"
#include "cli/invocation.h"
#include "export/catalog.h"
#include "server/activation.h"
#include "stream/tls.h"

namespace nbdinetd {

struct Opened {
  std::unique_ptr<Catalog> catalog;
  // Why `catalog` is nullptr, with MissingExport::kLog.
  absl::Status missing = absl::OkStatus();
  std::unique_ptr<Tls> tls;  // nullptr with --tls=off
};

// Whether to log warnings about unsafe keys. A listener logs them once; the
// processes that it forks don't.
enum class KeyWarnings { kTell, kTold };

// The reaction to an export that can't be opened. Wrong options
// (InvalidArgument) are always an error.
enum class MissingExport {
  kFail,
  kLog,  // log the error; the catalog is nullptr
};

// InvalidArgument unless exactly one of FILE, --directory and files that were
// handed over says what is served; and, with --negotiated, unless that is one
// export, and a connection was handed over, which --check needs not.
absl::Status CheckSources(const Options& options, const Inherited& inherited);

// Opens the exports (FILE, --directory or the files that were handed over),
// then loads the keys and OpenSSL. CheckSources() has succeeded. Logs each of
// them that is empty, or read-only without --readonly, but for those of
// --directory. InvalidArgument: wrong options.
// Another code: a file can't be opened. `shutdown` as for TableReader.
absl::StatusOr<Opened> OpenCatalogAndTls(const Invocation& invocation,
                                         MissingExport missing,
                                         KeyWarnings warnings, const Log& log,
                                         const ShutdownNotice& shutdown = {});

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPEN_CATALOG_H_
