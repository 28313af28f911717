// nbdinetd: an NBD server in the inetd style. Wiring, nothing else.

#include <signal.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "activation.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/signals.h"
#include "connection.h"
#include "export/catalog.h"
#include "export/export.h"
#include "options.h"

namespace nbdinetd {
namespace {

ExitStatus Fail(const Log& log, const absl::Status& status) {
  log.Error(status.message());
  return ExitStatusOf(status);
}

void Print(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

absl::StatusOr<Catalog> OpenCatalog(const Options& options, const Log& log) {
  if (options.file.empty()) {
    return absl::InvalidArgumentError(
        "no FILE to serve; see nbdinetd --help");
  }
  std::string read_only_reason;
  absl::StatusOr<std::unique_ptr<Export>> opened =
      OpenExport(options.file, options.read_only, &read_only_reason);
  if (!opened.ok()) return opened.status();
  if (!read_only_reason.empty()) {
    log.Write(Priority::kNotice,
              absl::StrCat(Quoted(options.file),
                           " is served read-only, since it can't be opened "
                           "for writing: ",
                           read_only_reason));
  }
  return Catalog(*std::move(opened), options.export_name, options.description);
}

ExitStatus Check(const Options& options, const Log& log) {
  const absl::StatusOr<Catalog> catalog = OpenCatalog(options, log);
  if (!catalog.ok()) return Fail(log, catalog.status());
  const Export::Facts& facts = catalog->Find("")->facts();
  Print(absl::StrCat(
      "would serve ", Quoted(options.file), ": ", facts.size_bytes, " bytes, ",
      facts.read_only ? "read-only" : "read-write", ", under ",
      options.export_name.has_value()
          ? absl::StrCat("the export name ", Quoted(*options.export_name))
          : "any export name",
      "\n"));
  return ExitStatus::kOk;
}

ExitStatus Main(int argc, char** argv) {
  Options options;
  const absl::Status usage = ParseOptions(argc, argv, &options);
  // Before anything is printed: standard output and error may be the client's.
  Inherited inherited = TakeInherited(options.single);
  Log log({options.log, options.verbose, inherited.standard_error_is_peer});
  if (!usage.ok()) return Fail(log, usage);
  if (options.help || options.version) {
    Print(options.help ? HelpText() : "nbdinetd " PACKAGE_VERSION "\n");
    return ExitStatus::kOk;
  }
  if (options.check) return Check(options, log);
  if (!inherited.status.ok()) return Fail(log, inherited.status);
  if (!inherited.connection.has_value()) {
    return Fail(log, absl::InvalidArgumentError(
                         "no client: start it from a systemd .socket unit with "
                         "Accept=yes, from xinetd or inetd, or over ssh with "
                         "--single"));
  }

  // From here on every message says whom it is about.
  log.SetField("NBD_PEER", inherited.connection->peer);
  absl::StatusOr<Catalog> catalog = OpenCatalog(options, log);
  if (!catalog.ok()) return Fail(log, catalog.status());

  // A peer that is gone, and a limit on file sizes, are answers, no reasons to
  // die.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  absl::StatusOr<ShutdownSignal> shutdown = ShutdownSignal::Create();
  if (!shutdown.ok()) return Fail(log, shutdown.status());
  return ServeConnection(*std::move(inherited.connection), *catalog, *shutdown,
                         log);
}

}  // namespace
}  // namespace nbdinetd

int main(int argc, char** argv) {
  return static_cast<int>(nbdinetd::Main(argc, argv));
}
