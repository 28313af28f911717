#include "cli/listener_process.h"

#include <string>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "access/client_rules.h"
#include "base/connection.h"
#include "base/exit_status.h"
#include "cli/connection_process.h"
#include "cli/output.h"
#include "server/daemon.h"
#include "stream/tls.h"

namespace nbdinetd {

int ListenOnInherited(std::vector<UniqueFd> sockets,
                      const Invocation& invocation, ServiceManager& manager,
                      Log& log) {
  absl::StatusOr<Signals> signals = Listener::CreateSignals();
  if (!signals.ok()) return Fail(log, signals.status());
  ListenerResources resources;
  resources.sockets.listeners = std::move(sockets);
  // An export that can't be opened now may exist later. Until then, connections
  // end without a greeting, as with Accept=yes.
  const absl::Status prepared =
      PrepareToListen(invocation, MissingExport::kLog, log, resources);
  if (!prepared.ok()) {
    resources.RemoveFiles();
    return Fail(log, prepared);
  }
  return RunListener(std::move(resources), *std::move(signals), invocation,
                     manager, log);
}

absl::Status PrepareToListen(const Invocation& invocation,
                             MissingExport missing, const Log& log,
                             ListenerResources& resources) {
  const Options& options = invocation.options;
  if (!options.pidfile.empty()) {
    absl::StatusOr<Pidfile> pidfile = Pidfile::Write(options.pidfile);
    if (!pidfile.ok()) return pidfile.status();
    resources.pidfile = *std::move(pidfile);
  }
  const absl::Status changed = BecomeUser(options, resources.sockets);
  if (!changed.ok()) return changed;
  // A mistake that is corrected later refuses nobody then.
  if (!options.rules.empty()) {
    const absl::StatusOr<ClientRules> rules =
        ClientRules::ReadFor(options.rules, PeerIdentity());
    if (!rules.ok() && missing == MissingExport::kFail) return rules.status();
    if (!rules.ok()) {
      Fail(log, rules.status());
    } else {
      for (const std::string& warning :
           rules->Warnings(TlsIsCertain(options.tls))) {
        log.Write(Priority::kWarning, warning);
      }
    }
  }
  const absl::StatusOr<Opened> opened =
      OpenCatalogAndTls(invocation, missing, KeyWarnings::kTell, log);
  if (!opened.ok()) return opened.status();
  resources.trouble = std::string(opened->missing.message());
  return absl::OkStatus();
}

int RunListener(ListenerResources resources, Signals signals,
                const Invocation& invocation, ServiceManager& manager,
                Log& log) {
  log.FollowFile();
  std::variant<Connection, int> outcome =
      Listener(std::move(resources), invocation.listener_config,
               std::move(signals), log, manager)
          .Run();
  if (const int* exit_status = std::get_if<int>(&outcome)) return *exit_status;
  // A process that was forked for a connection.
  log.Renew();
  const ConnectionResult result =
      RunConnectionProcess(std::get<Connection>(std::move(outcome)), invocation,
                           KeyWarnings::kTold, manager, log);
  return static_cast<int>(result.status) | (result.served ? 0 : kUnservedFlag);
}

}  // namespace nbdinetd
