// nbdinetd: an NBD server in the inetd style. main parses the command line, and
// calls the function for the mode that it selects.

#include <signal.h>

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/log.h"
#include "base/log_file.h"
#include "base/service_manager.h"
#include "cli/check.h"
#include "cli/connection_process.h"
#include "cli/invocation.h"
#include "cli/listener_process.h"
#include "cli/open_catalog.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/stand_alone.h"
#include "server/activation.h"
#include "server/daemon.h"

namespace nbdinetd {
namespace {

// Opens the file of --log. Without the option, `file` stays empty.
absl::Status OpenLogFile(const Options& options, std::optional<LogFile>& file) {
  if (options.log_file.empty()) return absl::OkStatus();
  absl::StatusOr<LogFile> opened = LogFile::Open(options.log_file);
  if (opened.ok()) file = *std::move(opened);
  return opened.status();
}

int Main(int argc, char** argv) {
  // A closed peer or log, and a limit on file sizes, are errors of a call
  // (EPIPE, EFBIG); the default actions of their signals would end the process.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  Options options;
  absl::Status usage = ParseOptions(argc, argv, &options);
  // Before any output: standard output and error may be the client's.
  Inherited inherited = TakeInherited(options.activation);
  CloseOtherDescriptors(
      inherited,
      {options.file, options.directory, options.tls.certificates,
       options.tls.psk_file, options.rules, options.pidfile, options.log_file});
  if (!options.help && !options.version &&
      (options.check || inherited.status.ok())) {
    usage.Update(CheckSources(options, inherited));
  }
  // Not after "--log disk.img", which forgets an argument: the message about it
  // must not be appended to the image.
  std::optional<LogFile> log_file;
  if (usage.ok()) usage = OpenLogFile(options, log_file);
  Log log({options.log, options.verbose, inherited.standard_error_is_peer,
           std::move(log_file)});
  if (!usage.ok()) return Fail(log, usage);
  if ((options.help || options.version || options.check) &&
      inherited.connection.has_value()) {
    // The caller may continue to use the connection.
    inherited.connection->input.Release();
  }
  if (options.help || options.version) {
    Print(options.help ? HelpText() : "nbdinetd " PACKAGE_VERSION "\n");
    return 0;
  }
  Invocation invocation(std::move(options), std::move(inherited.files));
  if (invocation.options.check) return Check(invocation, log);
  if (!inherited.status.ok()) return Fail(log, inherited.status);

  if (invocation.options.parent.has_value()) {
    const absl::Status arranged = EndWithParent(*invocation.options.parent);
    if (!arranged.ok()) return Fail(log, arranged);
  }
  ServiceManager manager;
  if (inherited.connection.has_value()) {
    return ServeInherited(*std::move(inherited.connection), invocation, manager,
                          log);
  }
  if (!inherited.listeners.empty()) {
    return ListenOnInherited(std::move(inherited.listeners), invocation,
                             manager, log);
  }
  return StandAlone(std::move(invocation), manager, log);
}

}  // namespace
}  // namespace nbdinetd

int main(int argc, char** argv) { return nbdinetd::Main(argc, argv); }
