#include "cli/connection_process.h"

#include <signal.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "access/client_rules.h"
#include "access/ruled_client.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/limit_signal.h"
#include "base/shutdown_notice.h"
#include "base/signals.h"
#include "cli/output.h"
#include "connection/connection_signals.h"
#include "connection/serve_connection.h"
#include "export/copy_on_write.h"
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

void LogRefusal(const Connection& connection, const std::string& reason,
                const Log& log) {
  log.Write(Priority::kWarning, message_id::kRefused,
            absl::StrCat("refusing ", connection.peer, ": ", reason),
            {{"NBD_PEER", connection.peer}, {"NBD_REASON", reason}});
}

// Whether the peer may not connect. A refused peer is disconnected before the
// greeting.
bool IsRefused(const Connection& connection, const AccessRules& access,
               const Log& log) {
  const std::optional<std::string> reason =
      access.WhyRefused(connection.input.get());
  if (!reason.has_value()) return false;
  LogRefusal(connection, *reason, log);
  return true;
}

// Reads the rules for this client; empty without --rules.
absl::StatusOr<std::optional<RuledClient>> ReadRules(
    const Connection& connection, const Options& options, const Log& log) {
  if (options.rules.empty()) return std::optional<RuledClient>();
  absl::StatusOr<ClientRules> rules = ClientRules::Read(
      options.rules, connection.input.get(), [](int fd, bool wants_unit) {
        return IdentifyPeer(
            fd, PeerGroups::kAll,
            wants_unit ? PeerUnit::kWanted : PeerUnit::kUnwanted);
      });
  if (!rules.ok()) return rules.status();
  if (!rules->why_no_unit().empty()) {
    log.Write(Priority::kWarning,
              absl::StrCat("the unit of ", connection.peer,
                           " is unknown: ", rules->why_no_unit(), "; since ",
                           Quoted(options.rules),
                           " names units, only lines about TLS are for it"));
  }
  return RuledClient{*std::move(rules)};
}

// Whether the rules give the client nothing, whatever TLS may tell of it.
bool IsRefused(const Connection& connection, const RuledClient& ruled,
               const Options& options, const Log& log) {
  if (!ruled.rules.gives_nothing(options.tls.mode != TlsMode::kOff)) {
    return false;
  }
  LogRefusal(connection, ruled.rules.For(TlsIdentity()).WhyNot(), log);
  return true;
}

// The lock that the connection may need.
Exclusive ExclusiveOf(const Options& options,
                      const std::optional<RuledClient>& ruled) {
  if (!ruled.has_value()) return options.exclusive;
  return std::max(options.exclusive,
                  ruled->rules.strongest_exclusive().value_or(Exclusive::kOff));
}

// The signals of a connection. Without --exclusive the process has no lock, and
// kTakeoverSignal keeps its default action: it is ignored.
absl::StatusOr<Signals> CreateSignals(Exclusive exclusive) {
  return exclusive == Exclusive::kOff
             ? Signals::Create({SIGTERM, SIGINT, kDrainSignal, LimitSignal()})
             : Signals::Create({SIGTERM, SIGINT, kDrainSignal, LimitSignal(),
                                kTakeoverSignal});
}

// Makes the private copy that the rules may give. With --cow, all clients have
// one.
absl::Status PrepareCopy(const Options& options,
                         std::optional<RuledClient>& ruled) {
  if (!ruled.has_value()) return absl::OkStatus();
  ruled->copy.is_made_by_catalog = options.copies.enabled;
  if (!ruled->rules.gives_copies() || options.copies.enabled) {
    return absl::OkStatus();
  }
  absl::StatusOr<PrivateCopy> copy = PrivateCopy::Create(options.copies);
  if (!copy.ok()) return copy.status();
  ruled->copy.file = *std::move(copy);
  return absl::OkStatus();
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
  // Each connection reads the rules, keys and certificates anew: what was
  // changed or renewed is valid from the next connection on. The rules come
  // first: nothing is opened for a client that gets nothing.
  const Options& options = invocation.options;
  absl::StatusOr<std::optional<RuledClient>> ruled =
      ReadRules(connection, options, log);
  if (!ruled.ok()) return fail(ruled.status());
  if (ruled->has_value() && IsRefused(connection, **ruled, options, log)) {
    return {ExitStatus::kRefused, /*served=*/false};
  }
  const Exclusive exclusive = ExclusiveOf(options, *ruled);
  absl::StatusOr<Signals> created = CreateSignals(exclusive);
  if (!created.ok()) return fail(created.status());
  ConnectionSignals signals(*std::move(created), config.transfer_limits);
  // The process that reads partition tables then leaves no zombie: in the
  // sandbox this one can't wait for it.
  if (options.partitions) signal(SIGCHLD, SIG_IGN);
  const absl::StatusOr<Opened> opened = OpenCatalogAndTls(
      invocation, MissingExport::kFail, warnings, log, signals.notice());
  if (!opened.ok()) return fail(opened.status());
  if (absl::Status status = PrepareCopy(options, *ruled); !status.ok()) {
    return fail(status);
  }
  if (options.copies.keep) {
    connection.address = PeerAddress(connection.input.get());
  }
  // After the open: /dev/stdin may be the export.
  DetachStandardInputAndOutput();
  return ServeConnection(
      std::move(connection), *opened->catalog, opened->tls.get(), config,
      {signals, manager, log, ruled->has_value() ? &**ruled : nullptr});
}

}  // namespace nbdinetd
