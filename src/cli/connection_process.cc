#include "cli/connection_process.h"

#include <signal.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/limit_signal.h"
#include "base/signals.h"
#include "cli/output.h"
#include "connection/serve_connection.h"
#include "export/exclusive.h"
#include "sandbox/privileges.h"
#include "server/access.h"
#include "server/activation.h"
#include "server/bind.h"
#include "server/daemon.h"
#include "server/peer.h"

namespace nbdinetd {
namespace {

// Whether the connection has already ended. A service that systemd restarts
// gets the connection that its previous process has ended.
bool IsOver(const Connection& connection, const Log& log) {
  if (!connection.input.IsShutDown()) return false;
  log.Write(Priority::kNotice,
            absl::StrCat("the connection of ", connection.peer,
                         " has been shut down already, by the client or by a "
                         "process before this one: nothing is served"),
            {{"NBD_PEER", connection.peer}});
  return true;
}

// Whether the peer may not connect. A refused peer is disconnected before the
// greeting.
bool IsRefused(const Connection& connection, const AccessRules& access,
               const Log& log) {
  const std::optional<std::string> reason =
      access.WhyRefused(connection.input.get());
  if (!reason.has_value()) return false;
  log.Write(Priority::kWarning, message_id::kRefused,
            absl::StrCat("refusing ", connection.peer, ": ", *reason),
            {{"NBD_PEER", connection.peer}, {"NBD_REASON", *reason}});
  return true;
}

// The signals of a connection. Without --exclusive the process has no lock, and
// kTakeoverSignal keeps its default action: it is ignored.
absl::StatusOr<Signals> CreateSignals(Exclusive exclusive) {
  return exclusive == Exclusive::kOff
             ? Signals::Create({SIGTERM, SIGINT, LimitSignal()})
             : Signals::Create(
                   {SIGTERM, SIGINT, LimitSignal(), kTakeoverSignal});
}

// Those of them that end it, for a wait outside of its channel. Until the
// channel takes one, it is pending here, too.
absl::StatusOr<Signals> CreateShutdownSignals(Exclusive exclusive) {
  return exclusive == Exclusive::kOff
             ? Signals::Create({SIGTERM, SIGINT})
             : Signals::Create({SIGTERM, SIGINT, kTakeoverSignal});
}

}  // namespace

absl::Status BecomeUser(const Options& options, const BoundSockets& sockets) {
  const absl::Status changed = ChangeUser(options.user, options.group, sockets);
  if (!changed.ok() || !options.parent.has_value()) return changed;
  return EndWithParent(*options.parent);
}

int ServeInherited(Connection connection, const Invocation& invocation,
                   ServiceManager& manager, Log& log) {
  if (IsOver(connection, log)) {
    // Sent data may still be in transit.
    connection.input.Release();
    return 0;
  }
  if (IsRefused(connection, invocation.listener_config.access, log)) {
    return static_cast<int>(ExitStatus::kRefused);
  }
  const Options& options = invocation.options;
  const absl::Status changed = BecomeUser(options, BoundSockets());
  if (!changed.ok()) return Fail(log, changed);
  return static_cast<int>(RunConnectionProcess(std::move(connection),
                                               invocation, KeyWarnings::kTell,
                                               manager, log)
                              .status);
}

ConnectionResult RunConnectionProcess(Connection connection,
                                      const Invocation& invocation,
                                      KeyWarnings warnings,
                                      ServiceManager& manager, Log& log) {
  const ConnectionConfig& config = invocation.connection_config;
  const auto fail = [&log](const absl::Status& status) {
    return ConnectionResult{static_cast<ExitStatus>(Fail(log, status)),
                            /*served=*/false};
  };
  if (const int error = ForbidCoreDumps()) {
    return fail(ErrnoStatus(error, "failed to forbid core dumps"));
  }
  // From here on, every message has the peer as a field.
  log.SetField("NBD_PEER", connection.peer);
  absl::StatusOr<Signals> signals = CreateSignals(config.exclusive);
  if (!signals.ok()) return fail(signals.status());
  const Options& options = invocation.options;
  std::optional<Signals> shutdown;
  if (options.partitions || options.export_settings.partition.has_value()) {
    absl::StatusOr<Signals> created = CreateShutdownSignals(config.exclusive);
    if (!created.ok()) return fail(created.status());
    shutdown = *std::move(created);
  }
  // The process that reads partition tables then leaves no zombie: in the
  // sandbox this one can't wait for it.
  if (options.partitions) signal(SIGCHLD, SIG_IGN);
  // Each connection reads the keys and certificates anew; renewed ones are
  // valid from the next connection on.
  const absl::StatusOr<Opened> opened =
      OpenCatalogAndTls(invocation, MissingExport::kFail, warnings, log,
                        shutdown.has_value() ? shutdown->fd() : -1);
  if (!opened.ok()) return fail(opened.status());
  if (invocation.options.copies.keep) {
    connection.address = PeerAddress(connection.input.get());
  }
  // After the open: /dev/stdin may be the export.
  DetachStandardInputAndOutput();
  return ServeConnection(std::move(connection), *opened->catalog,
                         opened->tls.get(), config, {*signals, manager, log});
}

}  // namespace nbdinetd
