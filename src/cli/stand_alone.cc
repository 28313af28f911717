#include "cli/stand_alone.h"

#include <sys/types.h>
#include <unistd.h>

#include <climits>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/signals.h"
#include "cli/listener_process.h"
#include "cli/output.h"
#include "server/bind.h"
#include "server/daemon.h"
#include "server/listener.h"

namespace nbdinetd {
namespace {

// The address to listen on. With --run and no option for an address, it is a
// Unix socket in a new folder.
ListenAddress AddressOf(const Options& options) {
  ListenAddress address = options.listen;
  if (!options.run.empty() && options.activation.own_socket == "--run" &&
      address.unix_path.empty() && address.port == 0 &&
      address.ip_address.empty() && !address.vsock) {
    address.unix_path = "-";
  }
  return address;
}

std::string LocalUri(const Options& options, const BoundSockets& bound) {
  return UriOf(options.listen, bound.unix_path,
               options.export_name.value_or(""),
               options.tls.mode == TlsMode::kRequire);
}

// Says where clients can connect, if nobody can know that otherwise: to a
// person who waits for it in the foreground, or of a path that was made up.
void Announce(const Options& options, const BoundSockets& bound,
              const Log& log) {
  const std::string uri = LocalUri(options, bound);
  if (options.print_uri) Print(absl::StrCat(uri, "\n"));
  const bool stays =
      options.activation.foreground || options.parent.has_value();
  if (options.run.empty() && (stays || options.listen.unix_path == "-")) {
    log.Write(Priority::kInfo,
              absl::StrCat("listening on ", bound.where,
                           "; clients on this machine use ", uri));
  }
}

// Starts the command of --run; -1 when there is none.
absl::StatusOr<pid_t> StartRun(const Options& options,
                               const BoundSockets& bound) {
  if (options.run.empty()) return pid_t{-1};
  const std::string name = options.export_name.value_or("");
  const uint32_t port =
      options.listen.port == 0 ? kNbdPort : options.listen.port;
  const bool is_unix = !bound.unix_path.empty();
  std::string host = options.listen.ip_address.empty()
                         ? "localhost"
                         : options.listen.ip_address;
  if (absl::StrContains(host, ':')) host = absl::StrCat("[", host, "]");
  return StartCommand(
      options.run,
      {{"nbd", options.listen.vsock ? ""
               : is_unix            ? absl::StrCat("nbd:unix:", bound.unix_path)
                                    : absl::StrCat("nbd:", host, ":", port)},
       {"port", is_unix ? "" : absl::StrCat(port)},
       {"unixsocket", bound.unix_path},
       {"uri", LocalUri(options, bound)},
       {"exportname", name}});
}

// Not by realpath(): the target of a link may change while the server runs.
void MakeAbsolute(std::string* path) {
  char folder[PATH_MAX];
  if (path->empty() || path->front() == '/') return;
  if (getcwd(folder, sizeof(folder)) != nullptr) {
    *path = absl::StrCat(folder, "/", *path);
  }
}

// The steps between bound sockets and the first accept(2).
absl::Status Start(const Invocation& invocation, const Log& log,
                   ListenerResources& resources) {
  absl::Status status =
      PrepareToListen(invocation, MissingExport::kFail, log, resources);
  if (status.ok()) status = resources.sockets.Listen();
  if (!status.ok()) return status;
  Announce(invocation.options, resources.sockets, log);
  const absl::StatusOr<pid_t> command =
      StartRun(invocation.options, resources.sockets);
  if (!command.ok()) return command.status();
  resources.command = *command;
  return absl::OkStatus();
}

// Makes the parent exit with success, and leaves the terminal and the current
// folder.
void LeaveForeground(Background& background, Options& options, Log& log) {
  MakeAbsolute(&options.file);
  MakeAbsolute(&options.directory);
  MakeAbsolute(&options.copies.directory);
  MakeAbsolute(&options.rules);
  MakeAbsolute(&options.tls.certificates);
  MakeAbsolute(&options.tls.psk_file);
  if (!options.log.has_value()) log.UseSyslog();
  background.Ready(options.verbose ||
                   options.log == LogDestination::kStandardError);
}

}  // namespace

int StandAlone(Invocation invocation, ServiceManager& manager, Log& log) {
  Options& options = invocation.options;
  if (options.exit_idle != absl::InfiniteDuration()) {
    return Fail(log, absl::InvalidArgumentError(
                         "--exit-idle needs a service manager that holds the "
                         "socket: activate it by a .socket unit"));
  }
  const bool in_background = !options.activation.foreground &&
                             options.run.empty() && !options.parent.has_value();
  const auto fail_to_start = [&](const absl::Status& status) {
    const int exit_status = Fail(log, status);
    return in_background ? kBackgroundFailed : exit_status;
  };
  // Before any process is started that could send a signal.
  absl::StatusOr<Signals> signals = Listener::CreateSignals();
  if (!signals.ok()) return fail_to_start(signals.status());

  absl::StatusOr<BoundSockets> bound = Bind(AddressOf(options));
  if (!bound.ok()) return fail_to_start(bound.status());
  ListenerResources resources;
  resources.sockets = *std::move(bound);
  std::optional<Background> background;
  if (in_background) {
    absl::StatusOr<Background> entered = Background::Enter();
    if (!entered.ok()) {
      resources.RemoveFiles();
      return fail_to_start(entered.status());
    }
    background = *std::move(entered);
  }
  const absl::Status started = Start(invocation, log, resources);
  if (!started.ok()) {
    resources.RemoveFiles();
    // The parent may exit as soon as it knows of the failure. Nothing may
    // listen any more then: another server may be started on this address.
    resources.sockets.listeners.clear();
    if (!background.has_value()) return Fail(log, started);
    background->Failed(started.message());
    return kBackgroundFailed;
  }
  if (background.has_value()) LeaveForeground(*background, options, log);
  return RunListener(std::move(resources), *std::move(signals), invocation,
                     manager, log);
}

}  // namespace nbdinetd
