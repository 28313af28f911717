#include "server/listener.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/amounts.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/limits.h"
#include "base/poll.h"
#include "base/shutdown_notice.h"
#include "base/steady_clock.h"
#include "server/peer.h"

namespace nbdinetd {
namespace {

// The pause after accept() has failed for a reason that remains.
constexpr absl::Duration kPause = absl::Milliseconds(100);

UniqueFd OpenSpare() {
  return UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

// Sets or clears O_NONBLOCK; returns whether `fd` was blocking. accept4() has
// no flag for a call that doesn't wait, and a listening socket from systemd may
// be blocking. Other processes share the flag, which is therefore restored.
bool SetBlocking(int fd, bool blocking) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return false;
  const bool blocks = (flags & O_NONBLOCK) == 0;
  if (blocks != blocking) {
    fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
  }
  return blocks;
}

// Whether accept() failed because of one connection (accept(2), "Error
// handling"); the next call may succeed.
bool IsFaultOfTheConnection(int error_number) {
  switch (error_number) {
    case ECONNABORTED:
    case EINTR:
    case EPERM:
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENONET:
    case EOPNOTSUPP:
      return true;
    default:
      return false;
  }
}

// What is wrong with the server, for people, if the process of a connection
// ends with this status; nullptr if nothing is, or it is the client's fault.
const char* FaultOf(int exit_status) {
  switch (static_cast<ExitStatus>(exit_status)) {
    case ExitStatus::kOk:
    case ExitStatus::kUnavailable:
    case ExitStatus::kTimedOut:
    case ExitStatus::kProtocol:
    case ExitStatus::kRefused:
      return nullptr;
    case ExitStatus::kNoInput:
      return "an export can't be opened";
    case ExitStatus::kConfig:
      return "the TLS files can't be used";
    default:
      return "the system, the storage or the sandbox failed";
  }
}

// The process or the system has no descriptor left.
bool IsOutOfDescriptors(int error_number) {
  return error_number == EMFILE || error_number == ENFILE;
}

}  // namespace

void ListenerResources::RemoveFiles() {
  sockets.RemoveUnixSocket();
  pidfile.Remove();
}

Listener::Listener(ListenerResources resources, const ListenerConfig& config,
                   Signals signals, const Log& log, ServiceManager& manager)
    : resources_(std::move(resources)),
      config_(config),
      signals_(std::move(signals)),
      log_(log),
      manager_(manager),
      spare_(OpenSpare()),
      last_error_(resources_.trouble),
      denials_{RateLimit(kMaxDenialsLogged, kDenialsInterval), "refused ",
               " more connections by --allow and --deny in ", kDenialsInterval},
      faults_{RateLimit(kMaxFaultsLogged, kFaultsInterval), "",
              " more refused connections or killed processes in ",
              kFaultsInterval},
      idle_since_(SteadyNow()),
      next_status_(SteadyNow()) {}

absl::StatusOr<Signals> Listener::CreateSignals() {
  // With SIG_IGN, the kernel would reap processes that the listener counts.
  signal(SIGCHLD, SIG_DFL);
  return Signals::Create({SIGTERM, SIGINT, SIGHUP, SIGCHLD, kDrainSignal});
}

std::variant<Connection, int> Listener::Run() {
  std::vector<UniqueFd>& sockets = resources_.sockets.listeners;
  // If the notification fails, the next status carries READY=1.
  if (!manager_.Ready(Status())) status_changed_ = true;
  while (state_ == State::kListening) {
    std::vector<pollfd> fds = {{signals_.fd(), POLLIN, 0}};
    if (!spare_.valid()) spare_ = OpenSpare();
    const bool paused = SteadyNow() < paused_until_;
    for (const UniqueFd& socket : sockets) {
      fds.push_back({paused ? -1 : socket.get(), POLLIN, 0});
    }
    const int ready = manager_.PollUntil(absl::MakeSpan(fds), NextDeadline());
    while (const std::optional<Signals::Signal> signal = signals_.Take()) {
      OnSignal(signal->number);
    }
    TellManager();
    TellDueSuppressed();
    if (state_ != State::kListening) break;
    if (std::optional<Connection> connection = ServeWaiting()) {
      return *std::move(connection);
    }
    if (ready == 0 && processes_.empty() &&
        SteadyNow() - idle_since_ >= config_.exit_idle) {
      // A connection that arrives from here on stays in the socket's backlog.
      // systemd holds the socket, too, and starts the service again.
      log_.Write(Priority::kInfo,
                 absl::StrCat("nobody has been connected for ",
                              absl::FormatDuration(config_.exit_idle),
                              ": leaving the socket to the service manager"));
      break;
    }
    for (size_t i = 1; i < fds.size(); ++i) {
      if (fds[i].revents == 0) continue;
      std::optional<Connection> connection = Accept(fds[i].fd);
      if (connection.has_value()) return *std::move(connection);
      if ((fds[i].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
        log_.Error("another process has shut down a listening socket");
        sockets[i - 1].Reset();
      }
    }
  }
  Drain();
  return exit_status_;
}

absl::Time Listener::NextDeadline() const {
  absl::Time next = std::min(denials_.rate.due(), faults_.rate.due());
  if (!waiting_.empty()) next = std::min(next, waiting_.front().until);
  if (SteadyNow() < paused_until_) next = std::min(next, paused_until_);
  if (processes_.empty()) {
    next = std::min(next, idle_since_ + config_.exit_idle);
  }
  if (status_changed_ && manager_.present()) {
    next = std::min(next, next_status_);
  }
  return next;
}

std::string Listener::Status() const {
  return absl::StrCat(
      Counted(processes_.size(), "connection"), " now, ", forked_ - unserved_,
      " served, ", refused_, " refused",
      last_error_.empty() ? "" : absl::StrCat("; last error: ", last_error_));
}

void Listener::TellManager() {
  if (!manager_.present()) return;
  const absl::Time now = SteadyNow();
  if (status_changed_ && now >= next_status_) {
    status_changed_ = !manager_.Status(Status());
    next_status_ = now + kStatusInterval;
  }
}

void Listener::OnSignal(int number) {
  switch (number) {
    case SIGCHLD:
      Reap();
      return;
    case SIGHUP:
      // No successor can take over from a server that serves its own command.
      state_ = resources_.command > 0 ? State::kDraining : State::kHandingOver;
      return;
    default:
      state_ = State::kDraining;
      end_signal_ = number == kDrainSignal ? kDrainSignal : SIGTERM;
  }
}

void Listener::EndConnections(int signal) {
  end_signal_ = signal;
  for (const pid_t pid : processes_) kill(pid, signal);
}

void Listener::Reap() {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == resources_.command) {
      resources_.command = -1;
      exit_status_ =
          WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (state_ == State::kListening) state_ = State::kDraining;
      continue;
    }
    if (processes_.erase(pid) == 0) continue;
    status_changed_ = true;
    if (processes_.empty()) idle_since_ = SteadyNow();
    NoteEnded(pid, status);
  }
}

void Listener::NoteEnded(pid_t pid, int status) {
  if (WIFSIGNALED(status)) {
    LogFault(Priority::kError,
             absl::StrCat("the process of a connection, ", pid,
                          ", was killed by signal ", WTERMSIG(status), " (",
                          strsignal(WTERMSIG(status)), ")"));
    return;
  }
  const int exit_status = WEXITSTATUS(status) & ~kUnservedFlag;
  if (exit_status != WEXITSTATUS(status)) ++unserved_;
  if (const char* fault = FaultOf(exit_status)) {
    // It has logged the reason itself.
    last_error_ =
        absl::StrCat("the process of a connection, ", pid,
                     ", ended with status ", exit_status, ", ", fault);
  }
}

std::optional<Connection> Listener::Accept(int socket) {
  // Each time, because another process may have restored the flag.
  if (SetBlocking(socket, false)) blocking_.insert(socket);
  for (int i = 0; i < kAcceptsInARow; ++i) {
    ConnectionFd connection(accept_.Accept(socket));
    if (connection.valid()) {
      if (!MayConnect(connection.get())) continue;
      // Waiting connections come first.
      if (!HasRoom() || !waiting_.empty()) {
        KeepWaiting(connection.Release());
        continue;
      }
      std::optional<Connection> forked = Fork(std::move(connection));
      if (forked.has_value()) return forked;
    } else if (IsOutOfDescriptors(errno)) {
      const int error = errno;
      if (!ShedForWantOfDescriptors(socket)) Pause(error);
      return std::nullopt;
    } else if (!IsFaultOfTheConnection(errno)) {
      if (errno != EAGAIN) Pause(errno);
      return std::nullopt;
    }
  }
  return std::nullopt;
}

void Listener::KeepWaiting(UniqueFd connection) {
  if (waiting_.size() == kMaxWaiting) RefuseOldest();
  waiting_.push_back({std::move(connection), SteadyNow() + kReapGrace});
}

std::optional<Connection> Listener::ServeWaiting() {
  while (!waiting_.empty() && HasRoom()) {
    ConnectionFd connection(std::move(waiting_.front().connection));
    waiting_.pop_front();
    std::optional<Connection> forked = Fork(std::move(connection));
    if (forked.has_value()) return forked;
  }
  if (waiting_.empty()) return std::nullopt;
  const absl::Time now = SteadyNow();
  while (!waiting_.empty() && waiting_.front().until <= now) RefuseOldest();
  return std::nullopt;
}

void Listener::RefuseOldest() {
  Refuse(ConnectionFd(std::move(waiting_.front().connection)),
         absl::StrCat("there are ", processes_.size(),
                      " connections, the most that --max-connections allows"));
  waiting_.pop_front();
}

void Listener::Pause(int error_number) {
  paused_until_ = SteadyNow() + kPause;
  const std::string reason =
      absl::StrCat("failed to accept connections: ", ErrnoText(error_number));
  if (told_refusal_ != reason) {
    told_refusal_ = reason;
    LogFault(Priority::kError, reason);
  }
}

std::optional<Connection> Listener::Fork(ConnectionFd connection) {
  const pid_t pid = fork();
  if (pid < 0) {
    last_error_ =
        absl::StrCat("failed to fork a process for it: ", ErrnoText(errno));
    Refuse(std::move(connection), last_error_);
    return std::nullopt;
  }
  if (pid > 0) {
    // The new process owns the connection; the listener only closes its copy.
    connection.Release();
    processes_.insert(pid);
    ++forked_;
    status_changed_ = true;
    told_refusal_.clear();
    return std::nullopt;
  }
  // The new process keeps no resource of the listener.
  resources_ = ListenerResources();
  waiting_.clear();
  spare_.Reset();
  manager_.Forget();
  std::string peer = PeerName(connection.get());
  return Connection{std::move(connection), UniqueFd(), std::move(peer)};
}

void Listener::Refuse(ConnectionFd connection, const std::string& reason) {
  ++refused_;
  status_changed_ = true;
  // Logs a reason once, however many connections follow.
  if (told_refusal_ != reason) {
    told_refusal_ = reason;
    if (!Admit(faults_)) return;
    const std::string peer = PeerName(connection.get());
    log_.Write(Priority::kWarning, message_id::kRefused,
               absl::StrCat("refusing ", peer, ": ", reason),
               {{"NBD_PEER", peer}, {"NBD_REASON", reason}});
  }
}

bool Listener::Admit(LimitedMessages& kind) {
  const absl::Time now = SteadyNow();
  if (now >= kind.rate.due()) TellSuppressed(kind);
  return kind.rate.Admit(now);
}

void Listener::LogFault(Priority priority, const std::string& message) {
  last_error_ = message;
  if (Admit(faults_)) log_.Write(priority, message);
}

void Listener::TellSuppressed(LimitedMessages& kind) {
  const uint64_t count = kind.rate.TakeSuppressed();
  if (count == 0) return;
  log_.Write(Priority::kWarning,
             absl::StrCat(kind.before, count, kind.after,
                          absl::FormatDuration(kind.interval)));
}

void Listener::TellDueSuppressed() {
  const absl::Time now = SteadyNow();
  for (LimitedMessages* kind : {&denials_, &faults_}) {
    if (now >= kind->rate.due()) TellSuppressed(*kind);
  }
}

bool Listener::MayConnect(int connection) {
  const std::optional<std::string> reason =
      config_.access.WhyRefused(connection);
  if (!reason.has_value()) return true;
  ++refused_;
  status_changed_ = true;
  if (Admit(denials_)) {
    const std::string peer = PeerName(connection);
    log_.Write(Priority::kWarning, message_id::kRefused,
               absl::StrCat("refusing ", peer, ": ", *reason),
               {{"NBD_PEER", peer}, {"NBD_REASON", *reason}});
  }
  return false;
}

// Without a free descriptor, a pending connection can't be accepted, and poll()
// reports it forever. The spare descriptor makes it possible to accept
// and close it.
bool Listener::ShedForWantOfDescriptors(int socket) {
  const int error_number = errno;
  if (!waiting_.empty()) {
    RefuseOldest();
    return true;
  }
  spare_.Reset();
  ConnectionFd connection(accept_.Accept(socket));
  const bool shed = connection.valid();
  last_error_ = ErrnoText(error_number);
  if (shed) Refuse(std::move(connection), last_error_);
  spare_ = OpenSpare();
  return shed;
}

// Stops accepting, ends the processes of connections, and waits for them.
void Listener::Drain() {
  // The names first: a successor may use them once the sockets are closed.
  resources_.RemoveFiles();
  std::vector<UniqueFd>& sockets = resources_.sockets.listeners;
  for (const UniqueFd& socket : sockets) {
    if (blocking_.contains(socket.get())) SetBlocking(socket.get(), true);
  }
  sockets.clear();
  while (!waiting_.empty()) RefuseOldest();
  TellSuppressed(denials_);
  TellSuppressed(faults_);
  manager_.Stopping(absl::StrCat("ending, with ", Status()));
  if (state_ == State::kHandingOver) {
    log_.Write(
        Priority::kInfo,
        absl::StrCat("handing over: ", Counted(processes_.size(), "connection"),
                     processes_.size() == 1 ? " continues in its process"
                                            : " continue in their processes"));
    return;
  }
  if (resources_.command > 0) kill(resources_.command, SIGTERM);
  if (processes_.empty() && resources_.command < 0) return;
  EndConnections(end_signal_);
  bool killed = false;
  // A drain waits for the storage, until a shutdown follows.
  absl::Time limit = end_signal_ == kDrainSignal ? absl::InfiniteFuture()
                                                 : SteadyNow() + kDrainLimit;
  // A SIGCHLD that arrived earlier is still pending.
  while (!processes_.empty() || resources_.command > 0) {
    if (!killed && SteadyNow() >= limit) {
      killed = true;
      log_.Error(absl::StrCat(Counted(processes_.size(), "connection"),
                              " didn't end in time: killing ",
                              processes_.size() == 1 ? "it" : "them"));
      EndConnections(SIGKILL);
      if (resources_.command > 0) kill(resources_.command, SIGKILL);
    }
    pollfd fd = {signals_.fd(), POLLIN, 0};
    manager_.PollUntil(absl::MakeSpan(&fd, 1),
                       killed ? absl::InfiniteFuture() : limit);
    while (const std::optional<Signals::Signal> signal = signals_.Take()) {
      const bool shuts_down =
          signal->number == SIGTERM || signal->number == SIGINT;
      if (!shuts_down || end_signal_ != kDrainSignal) continue;
      EndConnections(SIGTERM);
      limit = SteadyNow() + kDrainLimit;
    }
    Reap();
  }
  TellSuppressed(faults_);
}

}  // namespace nbdinetd
