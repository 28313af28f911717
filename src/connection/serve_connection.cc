#include "connection/serve_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "access/ruled_catalog.h"
#include "base/event_fd.h"
#include "base/limits.h"
#include "base/shutdown_notice.h"
#include "base/statistics.h"
#include "base/statistics_page.h"
#include "base/steady_clock.h"
#include "connection/connection_log.h"
#include "negotiation/negotiation.h"
#include "negotiation/skip_handshake.h"
#include "sandbox/sandbox.h"
#include "stream/channel.h"
#include "stream/stream.h"
#include "stream/tls_upgrade.h"
#include "transmission/progress.h"
#include "transmission/transmission.h"

namespace nbdinetd {
namespace {

// The kernel's limit on both times, which it counts in seconds.
constexpr int64_t kMaxKeepaliveSeconds = 32767;

// Enables TCP keepalive, so that a peer whose machine doesn't answer is
// detected within `keepalive`. Rejected: TCP_USER_TIMEOUT, with which the
// kernel ends the connection at the first lost probe (tcp_keepalive_timer()),
// and which also limits sending; StallWatch does that.
void SetKeepalive(int fd, absl::Duration keepalive) {
  const auto set = [fd](int level, int name, int64_t value) {
    const int number = static_cast<int>(value);
    setsockopt(fd, level, name, &number, sizeof(number));
  };
  const int64_t seconds = std::max<int64_t>(
      absl::ToInt64Seconds(absl::Ceil(keepalive, absl::Seconds(1))), 2);
  if (seconds > 2 * kMaxKeepaliveSeconds) return;
  const int64_t interval = std::max<int64_t>(seconds / 2 / kKeepaliveProbes, 1);
  const int64_t probes =
      std::min<int64_t>(kKeepaliveProbes, (seconds - 1) / interval);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, seconds - probes * interval);
  set(IPPROTO_TCP, TCP_KEEPINTVL, interval);
  set(IPPROTO_TCP, TCP_KEEPCNT, probes);
}

// "If TCP sockets are used, both the client and server SHOULD disable Nagle's
// algorithm" ("Protocol phases"). On other sockets TCP_NODELAY fails, and no
// option is needed.
void PrepareSocket(int fd, const Timeouts& timeouts) {
  const int on = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) return;
  int keepalive = 0;
  socklen_t length = sizeof(keepalive);
  getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &keepalive, &length);
  // If keepalive is already on (KeepAlive= of a .socket unit), its times stay.
  if (keepalive == 0) SetKeepalive(fd, timeouts.keepalive);
}

std::unique_ptr<Stream> MakeStream(Connection& connection,
                                   const Timeouts& timeouts) {
  if (connection.output.valid()) {
    return std::make_unique<PipeStream>(connection.input.Release(),
                                        std::move(connection.output));
  }
  PrepareSocket(connection.input.get(), timeouts);
  return std::make_unique<SocketStream>(connection.input.Release());
}

// Adds the descriptors that the process uses besides exports and log.
void AddDescriptors(const Stream& stream, int signals_fd, int workers_fd,
                    SandboxFacts* facts) {
  facts->input_fd = stream.input_fd();
  facts->output_fd = stream.output_fd();
  facts->kernel_tls = !IsUnixSocket(facts->input_fd);
  facts->signals_fd = signals_fd;
  facts->workers_fd = workers_fd;
}

// Whether the sandbox is good enough to serve the client. Logs what is missing.
bool SandboxSuffices(const absl::Status& sandboxed, SandboxMode mode,
                     const Log& log) {
  if (sandboxed.ok()) return true;
  const bool required = mode == SandboxMode::kRequire;
  log.Write(required ? Priority::kError : Priority::kNotice,
            message_id::kSandboxIncomplete,
            absl::StrCat(required ? kNotServing : "the sandbox is incomplete: ",
                         sandboxed.message()),
            {{"NBD_REASON", std::string(sandboxed.message())}});
  return !required;
}

// Adds the rights that the rules may give a client, besides the options.
void AddRules(const RuledClient& ruled, SandboxFacts* facts) {
  const Exclusive exclusive =
      ruled.rules.strongest_exclusive().value_or(Exclusive::kOff);
  facts->exclusive |= exclusive != Exclusive::kOff;
  facts->takeover |= exclusive == Exclusive::kTakeover;
  if (ruled.copy.file.has_value()) facts->copy_fd = ruled.copy.file->fd();
}

// A connection whose process is in the sandbox; all borrowed.
struct Session {
  const std::string& peer;
  const std::string& address;
  Channel& channel;
  Catalog& catalog;
  const Tls* tls;
  const ConnectionConfig& config;
  Sandbox& sandbox;
  const LiveLimits& limits;
  const ProcessContext& process;
};

TlsIdentity IdentityOf(const TlsPeer& peer) {
  if (peer.has_psk) return {.psk = peer.identity};
  return {.subject = peer.identity, .issuer = peer.issuer};
}

// Runs the handshake phase, unless another program has, and starts TLS when the
// client requests it; `*tls_peer` is then set.
std::variant<Negotiated, TlsUpgrade, Ending> Negotiate(
    const Session& session, std::optional<TlsPeer>* tls_peer) {
  const ConnectionConfig& config = session.config;
  Log& log = session.process.log;
  NegotiationSettings settings = {.tls = config.tls_mode,
                                  .exclusive = config.exclusive,
                                  .exclusive_scope = config.exclusive_scope,
                                  .force_share = config.force_share,
                                  .multi_conn = config.multi_conn,
                                  .time_limit = config.timeouts.handshake,
                                  .claimant = {.address = session.address}};
  RuledClient* ruled = session.process.ruled;
  // What the client sees before TLS, and what it sees then.
  std::optional<RuledCatalog> shown;
  Catalog* catalog = &session.catalog;
  const auto show = [&](ClientGrants grants) {
    shown.emplace(session.catalog, std::move(grants), ruled->copy,
                  [&channel = session.channel] {
                    channel.LookForShutdown();
                    return SteadyNow() < channel.HandshakeLimit();
                  });
    catalog = &*shown;
  };
  if (ruled != nullptr) show(ruled->rules.For(TlsIdentity()));
  if (config.negotiated.has_value()) {
    return std::visit(
        [](auto&& result) -> std::variant<Negotiated, TlsUpgrade, Ending> {
          return std::move(result);
        },
        SkipHandshake(session.channel, *catalog, settings, *config.negotiated));
  }
  std::variant<Negotiated, TlsUpgrade, Ending> outcome =
      Negotiation(session.channel, *catalog, log, settings).Run();
  const TlsUpgrade* upgrade = std::get_if<TlsUpgrade>(&outcome);
  if (upgrade == nullptr) return outcome;
  tls_peer->emplace();
  if (std::optional<Ending> ending =
          UpgradeToTls(session.channel, *session.tls, &**tls_peer)) {
    return *std::move(ending);
  }
  if (!(*tls_peer)->identity.empty()) {
    log.SetField("NBD_TLS_IDENTITY", (*tls_peer)->identity);
  }
  settings.claimant.tls_identity = (*tls_peer)->identity;
  settings.claimant.by_psk = (*tls_peer)->has_psk;
  if (ruled != nullptr) {
    // Both at once could need much memory.
    shown.reset();
    ClientGrants grants = ruled->rules.For(IdentityOf(**tls_peer));
    if (grants.empty()) {
      return Ending{
          ExitStatus::kRefused,
          absl::StrCat("--rules refuse the client: ", grants.WhyNot()),
          message_id::kRefused};
    }
    show(std::move(grants));
  }
  // A new Negotiation: nothing negotiated in plain text is kept.
  return Negotiation(session.channel, *catalog, log, settings, *upgrade).Run();
}

// Runs both phases. The workers wake the transmission thread by `event_fd`.
// `served` becomes the export.
Ending RunPhases(const Session& session, UniqueFd event_fd,
                 Statistics& statistics, std::shared_ptr<Export>& served) {
  Log& log = session.process.log;
  // The client waits for the greeting.
  session.process.manager.PassingStatus(
      absl::StrCat("negotiating with ", session.peer));
  std::optional<TlsPeer> tls_peer;
  std::variant<Negotiated, TlsUpgrade, Ending> outcome =
      Negotiate(session, &tls_peer);
  if (Ending* ending = std::get_if<Ending>(&outcome)) {
    return std::move(*ending);
  }
  const Negotiated& negotiated = std::get<Negotiated>(outcome);
  served = negotiated.target;
  SetExportFields(log, negotiated);
  const SandboxMode sandbox_mode = session.config.sandbox_mode;
  if (sandbox_mode != SandboxMode::kOff &&
      !SandboxSuffices(session.sandbox.Tighten(), sandbox_mode, log)) {
    return {ExitStatus::kSystem, "the sandbox can't be tightened",
            message_id::kSandboxIncomplete};
  }
  LogStart(log, session.peer, negotiated, tls_peer);
  Progress progress(session.process.manager, statistics,
                    ServingStatus(session.peer, negotiated, tls_peer));
  return Transmission({.channel = session.channel,
                       .negotiated = negotiated,
                       .log = log,
                       .statistics = statistics,
                       .progress = progress,
                       .idle_timeout = session.config.timeouts.idle,
                       .limits = &session.limits,
                       .event_fd = std::move(event_fd)})
      .Run();
}

}  // namespace

SandboxFacts SandboxFactsOf(const Catalog& catalog,
                            const ConnectionConfig& config, const Log& log) {
  const Catalog::Kinds kinds = catalog.kinds();
  SandboxFacts facts;
  facts.tls = config.tls_mode != TlsMode::kOff;
  facts.writable = kinds.writable;
  facts.block_devices = kinds.block_devices;
  facts.exclusive = config.exclusive != Exclusive::kOff;
  facts.takeover = config.exclusive == Exclusive::kTakeover;
  facts.directory_fd = catalog.directory_fd();
  facts.tables_fd = catalog.tables_fd();
  facts.copy_fd = catalog.copy_fd();
  facts.copies_fd = catalog.copies_fd();
  facts.log_fd = log.file_fd();
  facts.journal_fd = log.journal_fd();
  return facts;
}

ConnectionResult ServeConnection(Connection connection, Catalog& catalog,
                                 const Tls* tls, const ConnectionConfig& config,
                                 const ProcessContext& process) {
  const absl::Time start = SteadyNow();
  const std::string peer = connection.peer;
  const std::string address = connection.address;
  // Those who read it ask the service manager for the process.
  StatisticsPage page(process.manager.present());
  Statistics& statistics = page.statistics();
  Ending ending;
  ConnectionSignals& signals = process.signals;
  // Outlives the channel: close(2) of a file may wait for its storage, and the
  // client should see the end of the connection before.
  std::shared_ptr<Export> served;
  {
    UniqueFd event_fd = CreateEventFd();
    SandboxFacts facts = SandboxFactsOf(catalog, config, process.log);
    if (process.ruled != nullptr) AddRules(*process.ruled, &facts);
    std::unique_ptr<Stream> stream = MakeStream(connection, config.timeouts);
    AddDescriptors(*stream, signals.fd(), event_fd.get(), &facts);
    ShutdownNotice shutdown = signals.notice();
    Channel channel(std::move(stream), shutdown.fd, config.timeouts.stall,
                    &process.manager, std::move(shutdown.told));
    // From here on, the process makes only the system calls of the table.
    Sandbox sandbox(facts);
    if (config.sandbox_mode != SandboxMode::kOff &&
        !SandboxSuffices(sandbox.Enter(), config.sandbox_mode, process.log)) {
      return {ExitStatus::kSystem, /*served=*/false};
    }
    ending = RunPhases({peer, address, channel, catalog, tls, config, sandbox,
                        signals.limits(), process},
                       std::move(event_fd), statistics, served);
  }
  if (ending.status == ExitStatus::kOk && signals.Take() == Shutdown::kNow &&
      signals.ended_by() == kTakeoverSignal) {
    absl::StrAppend(&ending.reason, ", since another takes over the export");
  }
  const absl::Duration duration = SteadyNow() - start;
  if (served == nullptr) {
    LogUnserved(process.log, peer, ending, duration);
  } else {
    LogEnd(process.log, peer, ending, statistics, duration);
  }
  return {ending.status, served != nullptr};
}

}  // namespace nbdinetd
