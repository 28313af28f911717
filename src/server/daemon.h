// The process of a stand-alone server: the background, the pidfile, the change
// of user, and the command of --run.
#ifndef NBDINETD_SERVER_DAEMON_H_
#define NBDINETD_SERVER_DAEMON_H_

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "server/bind.h"

namespace nbdinetd {

// The exit status of a server that failed to start in the background.
inline constexpr int kBackgroundFailed = 1;

// Enters the background in two steps, so that the exit status of the first
// process shows whether the server is ready.
class Background {
 public:
  // Forks. The parent waits and never returns: it exits with 0 after Ready() in
  // the child, otherwise with kBackgroundFailed and the child's message on
  // standard error. The child continues in a new session. Internal when
  // pipe2(2) or fork(2) fails.
  static absl::StatusOr<Background> Enter();

  // Makes the parent exit, and leaves the terminal and the current folder. With
  // `keep_standard_error`, standard error stays as it is.
  void Ready(bool keep_standard_error);
  // Makes the parent exit with a message; the child should exit, too.
  void Failed(absl::string_view message);

 private:
  explicit Background(UniqueFd parent) : parent_(std::move(parent)) {}
  UniqueFd parent_;
};

// A pidfile for the lifetime of the process that it names. It is never removed
// if it was replaced or names another process. Movable; the destructor removes
// nothing, so that a forked process can drop it.
class Pidfile {
 public:
  // No pidfile.
  Pidfile() = default;
  // Writes the process id and a newline to a new file, or over the content of a
  // regular file. AlreadyExists when that fails, or when `path` is a link.
  static absl::StatusOr<Pidfile> Write(const std::string& path);
  // Removes the file, or empties it when the process, which may have changed
  // its user, has no right to remove it. A pidfile must not name an ended
  // process, whose id may be reused.
  void Remove();

 private:
  UniqueFd directory_;
  UniqueFd file_;
  std::string name_;  // in directory_
};

// Changes to the user and group of --user and --group permanently, after it has
// given them the Unix socket of `sockets`. Both are names or numbers. An empty
// one changes nothing; without `group`, the user's own groups are used.
// InvalidArgument names an unknown user or group; another code when the process
// has no right to change.
absl::Status ChangeUser(const std::string& user, const std::string& group,
                        const BoundSockets& sockets);

// Makes the kernel send SIGTERM to this process when `parent`, its parent
// process, ends; sends it at once if `parent` has ended already. The kernel
// forgets this when the process changes its user: call it again then. A forked
// process doesn't inherit it. Internal when prctl(2) fails.
absl::Status EndWithParent(pid_t parent);

// Runs `command` by /bin/sh, with `variables` added to its environment. Returns
// its process id. Internal when fork(2) fails.
absl::StatusOr<pid_t> StartCommand(
    const std::string& command,
    const std::vector<std::pair<std::string, std::string>>& variables);

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_DAEMON_H_
