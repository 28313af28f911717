// nbdinetd: an NBD server in the inetd style. Wiring, nothing else.

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <optional>
#include <variant>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/service_manager.h"
#include "base/signals.h"
#include "cli/options.h"
#include "connection/serve_connection.h"
#include "export/catalog.h"
#include "export/directory.h"
#include "export/exclusive.h"
#include "export/export.h"
#include "sandbox/privileges.h"
#include "sandbox/sandbox.h"
#include "server/access.h"
#include "server/activation.h"
#include "server/bind.h"
#include "server/daemon.h"
#include "server/listener.h"
#include "stream/tls.h"

namespace nbdinetd {
namespace {

int Fail(const Log& log, const absl::Status& status) {
  log.Error(status.message());
  return static_cast<int>(ExitStatusOf(status));
}

// Without stdio, which would ask a terminal for its settings, what a sandbox
// doesn't let it.
void Print(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void LogReadOnly(const Log& log, const std::string& name,
                 const std::string& reason) {
  if (reason.empty()) return;
  log.Write(Priority::kNotice, ReadOnlyNotice(name, reason));
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenFile(const Options& options,
                                                  const Log& log) {
  std::string read_only_reason;
  absl::StatusOr<std::unique_ptr<Export>> opened =
      OpenExport(options.file, options.read_only, &read_only_reason);
  if (!opened.ok()) return opened.status();
  LogReadOnly(log, options.file, read_only_reason);
  return Catalog::OfOne(*std::move(opened), options.export_name,
                        options.description);
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenFiles(
    const Options& options, const std::vector<NamedFile>& files,
    const Log& log) {
  if (options.export_name.has_value() && files.size() > 1) {
    return absl::InvalidArgumentError(
        "--exportname can't name several files at once; LISTEN_FDNAMES does");
  }
  std::vector<Catalog::Entry> entries;
  absl::flat_hash_set<std::string> names;
  for (const NamedFile& file : files) {
    const std::string name = options.export_name.value_or(file.name);
    if (!names.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "two of the files handed over have the name ", Quoted(name)));
    }
    std::string read_only_reason;
    absl::StatusOr<std::unique_ptr<Export>> opened = OpenHandedOver(
        file.fd.get(), name, options.read_only, &read_only_reason);
    if (!opened.ok()) return opened.status();
    if (options.exclusive != Exclusive::kOff &&
        (*opened)->shares_description()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--exclusive can't lock ", Quoted(name),
          ", which was handed over: this process may not open it anew, and "
          "shares it, and its locks, with whoever handed it over; give it the "
          "right to open the file"));
    }
    LogReadOnly(log, name, read_only_reason);
    entries.push_back({name, options.description, *std::move(opened)});
  }
  return Catalog::OfNamed(std::move(entries));
}

absl::StatusOr<std::unique_ptr<Catalog>> OpenCatalog(
    const Options& options, const std::vector<NamedFile>& files,
    const Log& log) {
  if (!options.directory.empty()) {
    if (!files.empty()) {
      return absl::InvalidArgumentError(
          "both --directory and files handed over as descriptors: give one or "
          "the other");
    }
    return OpenDirectory(options.directory, options.read_only,
                         options.export_name.value_or(""));
  }
  if (options.file.empty() && files.empty()) {
    return absl::InvalidArgumentError(
        "no FILE to serve, nor --directory; see nbdinetd --help");
  }
  if (files.empty()) return OpenFile(options, log);
  if (options.file.empty()) return OpenFiles(options, files, log);
  return absl::InvalidArgumentError(
      "both FILE and files handed over as descriptors: give one or the other");
}

// Whether the log is told what is unsafe about the keys. For a process that a
// listener has forked, the listener has told it.
enum class KeyWarnings { kTell, kTold };

// nullptr with --tls=off.
absl::StatusOr<std::unique_ptr<Tls>> LoadTls(const Options& options,
                                             KeyWarnings warnings,
                                             const Log& log) {
  if (options.tls.mode == TlsMode::kOff) return nullptr;
  absl::StatusOr<std::unique_ptr<Tls>> tls = Tls::Load(options.tls);
  if (tls.ok() && warnings == KeyWarnings::kTell &&
      !(*tls)->warning().empty()) {
    log.Write(Priority::kWarning, (*tls)->warning());
  }
  return tls;
}

// Who is refused hears nothing, not even a greeting. Exit status 77, or nullopt
// when the client may connect.
std::optional<int> Refused(const Connection& connection, const Options& options,
                           const Log& log) {
  const std::optional<std::string> reason =
      options.access.WhyRefused(connection.input.get());
  if (!reason.has_value()) return std::nullopt;
  log.Write(Priority::kWarning,
            absl::StrCat("refusing ", connection.peer, ": ", *reason),
            {{"NBD_PEER", connection.peer}});
  return static_cast<int>(ExitStatus::kRefused);
}

absl::string_view ExclusiveInWords(Exclusive exclusive) {
  switch (exclusive) {
    case Exclusive::kOff:
      return "";
    case Exclusive::kRefuse:
      return "to one client at a time; others would be refused\n";
    case Exclusive::kWait:
      return "to one client at a time; others would wait until it has left\n";
    case Exclusive::kTakeover:
      return "to one client at a time; it would have to leave for the next\n";
  }
  return "";
}

// Enters it: only that tells whether it can be had, and what can be opened from
// within. In words what it is, or an error when it is not what is required.
absl::StatusOr<std::string> CheckSandbox(const Options& options,
                                         const Catalog& catalog) {
  if (options.sandbox == SandboxMode::kOff) return "in no sandbox\n";
  SandboxFacts facts = SandboxFactsOf(
      catalog, options.tls.mode != TlsMode::kOff, options.exclusive);
  facts.output_fd = STDOUT_FILENO;
  Sandbox sandbox(facts);
  const absl::Status status = sandbox.Enter();
  if (status.ok()) return sandbox.InWords();
  if (options.sandbox == SandboxMode::kRequire) {
    return absl::Status(status.code(),
                        absl::StrCat(kNotServing, status.message()));
  }
  return absl::StrCat("in an incomplete sandbox: ", status.message(), "\n");
}

int Check(const Options& options, const std::vector<NamedFile>& files,
          const Log& log) {
  const auto catalog = OpenCatalog(options, files, log);
  if (!catalog.ok()) return Fail(log, catalog.status());
  const absl::StatusOr<std::unique_ptr<Tls>> tls =
      LoadTls(options, KeyWarnings::kTell, log);
  if (!tls.ok()) return Fail(log, tls.status());
  const absl::StatusOr<std::string> sandbox = CheckSandbox(options, **catalog);
  if (!sandbox.ok()) return Fail(log, sandbox.status());
  Print((*catalog)->InWords());
  if (*tls != nullptr) {
    Print(absl::StrCat("would use TLS: ", (*tls)->description(),
                       options.tls.mode == TlsMode::kRequire
                           ? "; clients without TLS would be refused\n"
                           : "; clients without TLS would be served, too\n"));
  }
  Print(ExclusiveInWords(options.exclusive));
  for (const std::string& line : options.access.InWords()) {
    Print(absl::StrCat(line, "\n"));
  }
  Print(*sandbox);
  return 0;
}

int Serve(Connection connection, const Options& options,
          const std::vector<NamedFile>& files, KeyWarnings warnings,
          ServiceManager& manager, Log& log) {
  if (const int error = ForbidCoreDumps()) {
    return Fail(log, ErrnoStatus(error, "failed to forbid core dumps"));
  }
  // From here on every message says whom it is about.
  log.SetField("NBD_PEER", connection.peer);
  // Who has no lock to give up takes no notice of a takeover.
  absl::StatusOr<Signals> shutdown =
      options.exclusive == Exclusive::kOff
          ? Signals::Create({SIGTERM, SIGINT})
          : Signals::Create({SIGTERM, SIGINT, kTakeoverSignal});
  if (!shutdown.ok()) return Fail(log, shutdown.status());
  const auto catalog = OpenCatalog(options, files, log);
  if (!catalog.ok()) return Fail(log, catalog.status());
  // Each connection reads its keys and certificates, so that renewed ones hold
  // from the next connection on.
  absl::StatusOr<std::unique_ptr<Tls>> tls = LoadTls(options, warnings, log);
  if (!tls.ok()) return Fail(log, tls.status());
  // One of them may have been the export (/dev/stdin).
  DetachStandardInputAndOutput();
  return static_cast<int>(ServeConnection(
      std::move(connection), **catalog, options.timeouts, tls->get(),
      options.tls.mode == TlsMode::kRequire, options.exclusive, options.sandbox,
      *shutdown, manager, log));
}

// What a listener has in the file system until it stops.
struct OwnFiles {
  BoundSockets bound;
  Pidfile pidfile;

  void Remove() {
    bound.RemoveUnixSocket();
    pidfile.Remove();
  }
};

// Listens until it is told to stop; in each process that it forks, serves.
int Listen(std::vector<UniqueFd> sockets, const Options& options,
           const std::vector<NamedFile>& files, Signals signals, pid_t command,
           OwnFiles own, ServiceManager& manager, Log& log) {
  std::variant<Connection, int> outcome;
  {
    Listener listener(std::move(sockets), options.limits, std::move(signals),
                      log, manager);
    listener.set_access(options.access);
    listener.set_command(command);
    listener.set_on_stop([&own] { own.Remove(); });
    outcome = listener.Run();
  }
  if (Connection* connection = std::get_if<Connection>(&outcome)) {
    log.Renew();
    // They are the listener's.
    own = OwnFiles();
    return Serve(std::move(*connection), options, files, KeyWarnings::kTold,
                 manager, log);
  }
  return std::get<int>(outcome);
}

// What stands between the sockets and the first accept: --pidfile, --user and
// --group.
absl::Status PrepareToListen(const Options& options, OwnFiles& own) {
  if (!options.pidfile.empty()) {
    absl::StatusOr<Pidfile> pidfile = Pidfile::Write(options.pidfile);
    if (!pidfile.ok()) return pidfile.status();
    own.pidfile = *std::move(pidfile);
  }
  const absl::StatusOr<Credentials> credentials =
      FindCredentials(options.user, options.group);
  if (!credentials.ok()) return credentials.status();
  own.bound.GiveTo(credentials->uid, credentials->gid);
  return Become(*credentials);
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
       {"uri", UriOf(options.listen, bound.unix_path, name,
                     options.tls.mode == TlsMode::kRequire)},
       {"exportname", name}});
}

// Not by realpath(): what a link leads to may change while we serve.
void MakeAbsolute(std::string* path) {
  char folder[PATH_MAX];
  if (path->empty() || path->front() == '/') return;
  if (getcwd(folder, sizeof(folder)) != nullptr) {
    *path = absl::StrCat(folder, "/", *path);
  }
}

// Everything between bound sockets and the first accept. The command's process,
// or -1.
absl::StatusOr<pid_t> StartStandAlone(const std::vector<NamedFile>& files,
                                      const Options& options, const Log& log,
                                      OwnFiles& own) {
  absl::Status status = PrepareToListen(options, own);
  // As the user that will serve it: what can't be served is better told now
  // than to the first client.
  if (status.ok()) status = OpenCatalog(options, files, log).status();
  // What this loads of OpenSSL is there for every connection's process.
  if (status.ok()) {
    status = LoadTls(options, KeyWarnings::kTell, log).status();
  }
  if (status.ok()) status = own.bound.Listen();
  if (!status.ok()) return status;
  return StartRun(options, own.bound);
}

int StandAlone(Options options, const std::vector<NamedFile>& files,
               ServiceManager& manager, Log& log) {
  if (options.limits.exit_idle != absl::InfiniteDuration()) {
    return Fail(log, absl::InvalidArgumentError(
                         "--exit-idle needs a service manager that holds the "
                         "socket: activate it by a .socket unit"));
  }
  // A command talks to us by a socket of its own unless it is told another.
  if (!options.run.empty() && options.activation.own_socket == "--run" &&
      options.listen.unix_path.empty() && options.listen.port == 0 &&
      options.listen.ip_address.empty() && !options.listen.vsock) {
    options.listen.unix_path = "-";
  }
  const bool background = !options.activation.foreground && options.run.empty();
  const auto fail_to_start = [&](const absl::Status& status) {
    const int exit_status = Fail(log, status);
    return background ? 1 : exit_status;
  };
  // Before anything is started that could send a signal.
  absl::StatusOr<Signals> signals = Listener::CreateSignals();
  if (!signals.ok()) return fail_to_start(signals.status());

  absl::StatusOr<BoundSockets> bound = Bind(options.listen);
  if (!bound.ok()) return fail_to_start(bound.status());
  OwnFiles own{*std::move(bound), Pidfile()};
  std::optional<Background> child;
  if (background) {
    absl::StatusOr<Background> entered = Background::Enter();
    if (!entered.ok()) {
      own.Remove();
      return fail_to_start(entered.status());
    }
    child = *std::move(entered);
  }
  const absl::StatusOr<pid_t> command =
      StartStandAlone(files, options, log, own);
  if (!command.ok()) {
    own.Remove();
    if (child.has_value()) {
      child->Failed(command.status().message());
      return 1;
    }
    return Fail(log, command.status());
  }
  if (child.has_value()) {
    // The current folder is left behind.
    MakeAbsolute(&options.file);
    MakeAbsolute(&options.directory);
    MakeAbsolute(&options.tls.certificates);
    MakeAbsolute(&options.tls.psk_file);
    if (!options.log.has_value()) log.UseSyslog();
    child->Ready(options.verbose ||
                 options.log == LogDestination::kStandardError);
  }
  std::vector<UniqueFd> sockets = std::move(own.bound.listeners);
  return Listen(std::move(sockets), options, files, *std::move(signals),
                *command, std::move(own), manager, log);
}

// Whether there is nothing to serve: a service that is restarted gets the
// connection that its process before has ended.
bool IsOver(const Connection& connection, const Log& log) {
  if (!connection.input.IsShutDown()) return false;
  log.Write(Priority::kNotice,
            absl::StrCat("the connection of ", connection.peer,
                         " has been shut down already, by the client or by a "
                         "process before this one: nothing is served"),
            {{"NBD_PEER", connection.peer}});
  return true;
}

int Main(int argc, char** argv) {
  // A peer or a reader of messages that is gone, and a limit on file sizes, are
  // answers, no reasons to die.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  Options options;
  const absl::Status usage = ParseOptions(argc, argv, &options);
  // Before anything is printed: standard output and error may be the client's.
  Inherited inherited = TakeInherited(options.activation);
  CloseOtherDescriptors(
      inherited, {options.file, options.directory, options.tls.certificates,
                  options.tls.psk_file, options.pidfile});
  Log log({options.log, options.verbose, inherited.standard_error_is_peer});
  if (!usage.ok()) return Fail(log, usage);
  if ((options.help || options.version || options.check) &&
      inherited.connection.has_value()) {
    // Whoever asks for these may go on with it.
    inherited.connection->input.Release();
  }
  if (options.help || options.version) {
    Print(options.help ? HelpText() : "nbdinetd " PACKAGE_VERSION "\n");
    return 0;
  }
  if (options.check) return Check(options, inherited.files, log);
  if (!inherited.status.ok()) return Fail(log, inherited.status);

  ServiceManager manager;
  if (inherited.connection.has_value()) {
    if (IsOver(*inherited.connection, log)) {
      // What was sent on it may still be on its way.
      inherited.connection->input.Release();
      return 0;
    }
    if (const auto status = Refused(*inherited.connection, options, log)) {
      return *status;
    }
    const absl::StatusOr<Credentials> credentials =
        FindCredentials(options.user, options.group);
    const absl::Status status =
        credentials.ok() ? Become(*credentials) : credentials.status();
    if (!status.ok()) return Fail(log, status);
    return Serve(*std::move(inherited.connection), options, inherited.files,
                 KeyWarnings::kTell, manager, log);
  }
  if (inherited.listeners.empty()) {
    return StandAlone(std::move(options), inherited.files, manager, log);
  }
  absl::StatusOr<Signals> signals = Listener::CreateSignals();
  if (!signals.ok()) return Fail(log, signals.status());
  OwnFiles own;
  if (absl::Status status = PrepareToListen(options, own); !status.ok()) {
    own.Remove();
    return Fail(log, status);
  }
  // An export that can't be opened now may be there later; until then its
  // clients see connections that end, as with Accept=yes.
  if (const auto catalog = OpenCatalog(options, inherited.files, log);
      !catalog.ok()) {
    const int exit_status = Fail(log, catalog.status());
    if (absl::IsInvalidArgument(catalog.status())) {
      own.Remove();
      return exit_status;
    }
  }
  if (const absl::Status status =
          LoadTls(options, KeyWarnings::kTell, log).status();
      !status.ok()) {
    own.Remove();
    return Fail(log, status);
  }
  return Listen(std::move(inherited.listeners), options, inherited.files,
                *std::move(signals), /*command=*/-1, std::move(own), manager,
                log);
}

}  // namespace
}  // namespace nbdinetd

int main(int argc, char** argv) { return nbdinetd::Main(argc, argv); }
