// Accepts connections, and forks a process for each.
//
// The listener touches no export and reads no byte from a client, so that no
// client can wedge it; whatever befalls a connection's process, it goes on.
// Threads: one, and it must be the only one, since it forks.
#ifndef NBDINETD_SERVER_LISTENER_H_
#define NBDINETD_SERVER_LISTENER_H_

#include <sys/types.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_set.h"
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
#include "server/daemon.h"
#include "server/listener_config.h"

namespace nbdinetd {

// What a listener owns until it stops.
struct ListenerResources {
  BoundSockets sockets;  // those that were inherited have no names
  Pidfile pidfile;
  // The process of --run, or -1. Its status becomes the exit status.
  pid_t command = -1;

  // Removes what is in the file system: the Unix socket and the pidfile.
  void RemoveFiles();
};

class Listener {
 public:
  // Takes over `resources`; `config`, `log` and `manager` are borrowed.
  // `signals` come from CreateSignals().
  Listener(ListenerResources resources, const ListenerConfig& config,
           Signals signals, const Log& log, ServiceManager& manager);

  // SIGTERM and SIGINT stop it, and drain the connections' processes; SIGHUP
  // stops it, and lets them go on; SIGCHLD tells that one has ended.
  static absl::StatusOr<Signals> CreateSignals();

  // Returns many times: in this process once, when it has stopped, with the
  // exit status; in each forked process with the connection that it is to
  // serve. There all that belongs to the listener has been closed.
  std::variant<Connection, int> Run();

 private:
  // When the loop has to turn at the latest, also without a descriptor ready.
  absl::Time NextDeadline() const;
  void OnSignal(int number);
  void Reap();
  bool HasRoom() const { return processes_.size() < config_.max_connections; }
  // Keeps a connection that there is no room for, until kReapGrace is over.
  void KeepWaiting(UniqueFd connection);
  // Forks for those that wait as far as there is room, and refuses whose time
  // is over. A connection only in a forked process.
  std::optional<Connection> ServeWaiting();
  void RefuseOldest();
  // Accepts what is waiting on one socket. A connection only in a forked
  // process.
  std::optional<Connection> Accept(int socket);
  std::optional<Connection> Fork(ConnectionFd connection);
  void Refuse(ConnectionFd connection, const std::string& reason);
  // Whether the peer may connect; logs why not.
  bool MayConnect(int connection);
  // Messages of one kind that peers can cause at will: a few are logged one by
  // one, of the others `before`, their number and `after`.
  struct LimitedMessages {
    RateLimit rate;
    absl::string_view before, after;
    absl::Duration interval;
  };
  // Whether one more may be logged. Tells first of an interval that is over.
  bool Admit(LimitedMessages& kind);
  void LogFault(Priority priority, const std::string& message);
  // Tell how many weren't logged one by one.
  void TellSuppressed(LimitedMessages& kind);
  void TellDueSuppressed();
  // False when not even the spare descriptor helps.
  bool ShedForWantOfDescriptors(int socket);
  // Accepts nothing for a moment, since accepting fails for a reason that
  // doesn't go away with the connection.
  void Pause(int error_number);
  void TellManager();
  std::string Status() const;
  void Drain();

  ListenerResources resources_;
  // Sockets that blocked before, and will again for whoever else has them.
  absl::flat_hash_set<int> blocking_;
  const ListenerConfig& config_;
  Signals signals_;
  const Log& log_;
  ServiceManager& manager_;
  // Given up when the process has no descriptor left to accept with.
  UniqueFd spare_;

  absl::flat_hash_set<pid_t> processes_;
  uint64_t served_ = 0;
  uint64_t refused_ = 0;
  // Beyond max_connections: a client that has seen the end of its connection
  // may be back before the process of that connection is gone. Oldest first.
  struct Waiting {
    // Not a ConnectionFd: a forked process only closes its copy.
    UniqueFd connection;
    absl::Time until;
  };
  std::deque<Waiting> waiting_;
  // The reason that was logged last; the same again is only counted.
  std::string told_refusal_;
  // Refused by --allow and --deny.
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
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_LISTENER_H_
