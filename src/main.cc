// nbdinetd: an NBD server in the inetd style. main parses the command line, and
// calls the function for the mode that it selects.

#include <signal.h>

#include <utility>

#include "absl/status/status.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "cli/check.h"
#include "cli/connection_process.h"
#include "cli/invocation.h"
#include "cli/listener_process.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/stand_alone.h"
#include "server/activation.h"

namespace nbdinetd {
namespace {

int Main(int argc, char** argv) {
  // A closed peer or log, and a limit on file sizes, are errors of a call
  // (EPIPE, EFBIG); the default actions of their signals would end the process.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  Options options;
  const absl::Status usage = ParseOptions(argc, argv, &options);
  // Before any output: standard output and error may be the client's.
  Inherited inherited = TakeInherited(options.activation);
  CloseOtherDescriptors(
      inherited, {options.file, options.directory, options.tls.certificates,
                  options.tls.psk_file, options.pidfile});
  Log log({options.log, options.verbose, inherited.standard_error_is_peer});
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
