// Accepts connections, and forks a process for each.
//
// The listener opens no export and reads no byte from a client, so that no
// client can block it; it continues after a failure of a connection's process.
// Threads: one, and no other in the process, because it forks.
#ifndef NBDINETD_SERVER_LISTENER_H_
#define NBDINETD_SERVER_LISTENER_H_

#include <signal.h>
#include <sys/types.h>

#include <deque>
#include <optional>
#include <string>
#include <unordered_set>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/connection.h"
#include "base/connection_fd.h"
#include "base/log.h"
#include "base/rate_limit.h"
#include "base/service_manager.h"
#include "base/signals.h"
#include "base/unique_fd.h"
#include "server/bind.h"
#include "server/bounded_accept.h"
#include "server/daemon.h"
#include "server/listener_config.h"

namespace nbdinetd {

// The resources of a listener until it stops.
struct ListenerResources {
  BoundSockets sockets;  // inherited ones have no path
  Pidfile pidfile;
  // The process id of the command of --run, or -1. Its exit status becomes the
  // server's.
  pid_t command = -1;
  // Why no connection can be served yet; empty if there is no reason.
  std::string trouble;

  // Removes the Unix socket and the pidfile from the file system.
  void RemoveFiles();
};

class Listener {
 public:
  // Owns `resources`; borrows `config`, `log` and `manager`. `signals` come
  // from CreateSignals().
  Listener(ListenerResources resources, const ListenerConfig& config,
           Signals signals, const Log& log, ServiceManager& manager);

  // SIGTERM and SIGINT stop the listener, and the processes of connections with
  // it; so does kDrainSignal, which is passed on to them. SIGHUP stops it and
  // lets them continue. SIGCHLD reports an ended process.
  static absl::StatusOr<Signals> CreateSignals();

  // Returns once in the listener, with the exit status after it has stopped;
  // and once in each forked process, with the connection to serve, after all
  // resources of the listener have been closed there.
  std::variant<Connection, int> Run();

 private:
  // The time of the next action that needs no event.
  absl::Time NextDeadline() const;
  void OnSignal(int number);
  void Reap();
  bool HasRoom() const { return processes_.size() < config_.max_connections; }
  // Keeps a connection beyond max_connections for at most kReapGrace.
  void KeepWaiting(UniqueFd connection);
  // Forks for waiting connections while there is room, and refuses those whose
  // time is over. Returns a connection only in a forked process.
  std::optional<Connection> ServeWaiting();
  void RefuseOldest();
  // Accepts the pending connections of one socket. Returns a connection only in
  // a forked process.
  std::optional<Connection> Accept(int socket);
  std::optional<Connection> Fork(ConnectionFd connection);
  void Refuse(ConnectionFd connection, const std::string& reason);
  // Whether the peer may connect; logs the reason if not.
  bool MayConnect(int connection);
  // Messages of one kind, which peers can cause at any rate. A few are logged
  // one by one; the rest is logged as `before`, their number and `after`.
  struct LimitedMessages {
    RateLimit rate;
    absl::string_view before, after;
    absl::Duration interval;
  };
  // Whether one more message may be logged. First logs the number of messages
  // suppressed in an interval that has ended.
  bool Admit(LimitedMessages& kind);
  void LogFault(Priority priority, const std::string& message);
  // The process of a connection has ended with this status (wait(2)).
  void NoteEnded(pid_t pid, int status);
  // Log the number of messages that were suppressed.
  void TellSuppressed(LimitedMessages& kind);
  void TellDueSuppressed();
  // Closes one connection to free a descriptor. False when even the spare
  // descriptor doesn't help.
  bool ShedForWantOfDescriptors(int socket);
  // Stops accepting for a moment, when accept() fails for a reason that
  // remains.
  void Pause(int error_number);
  void TellManager();
  std::string Status() const;
  void Drain();
  void EndConnections(int signal);

  ListenerResources resources_;
  // Sockets that were blocking; Drain() clears O_NONBLOCK again for other
  // processes.
  std::unordered_set<int> blocking_;
  const ListenerConfig& config_;
  Signals signals_;
  const BoundedAccept accept_;
  const Log& log_;
  ServiceManager& manager_;
  // Closed to accept a connection when no other descriptor is left.
  UniqueFd spare_;

  std::unordered_set<pid_t> processes_;
  uint64_t forked_ = 0;
  uint64_t unserved_ = 0;  // of these: ended without an export
  uint64_t refused_ = 0;
  // For the status; empty if there was none.
  std::string last_error_;
  // Connections beyond max_connections, oldest first. A client that has seen
  // the end of its connection may connect again before that process is gone.
  struct Waiting {
    // No ConnectionFd: a forked process must only close its copy.
    UniqueFd connection;
    absl::Time until;
  };
  std::deque<Waiting> waiting_;
  // The last reason logged; a repetition is only counted.
  std::string told_refusal_;
  // Peers refused by --allow and --deny.
  LimitedMessages denials_;
  // Connections that can't be served, and processes that were killed.
  LimitedMessages faults_;
  absl::Time idle_since_;
  absl::Time paused_until_ = absl::InfinitePast();
  absl::Time next_status_;
  bool status_changed_ = false;

  enum class State { kListening, kDraining, kHandingOver };
  State state_ = State::kListening;
  int exit_status_ = 0;
  int end_signal_ = SIGTERM;  // for the processes of connections
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_LISTENER_H_
