// What a stand-alone server does to its own process: the background, the
// pidfile, the user that it runs as, and the command of --run.
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

// The exit status of a server that has failed to go into the background.
inline constexpr int kBackgroundFailed = 1;

// Becomes a background process in two steps, so that whoever started it learns
// whether it is ready.
class Background {
 public:
  // Forks. The parent waits, and never returns: it exits 0 when the child
  // calls Ready(), and else kBackgroundFailed, with the child's message on
  // standard error. The child goes on in a session of its own.
  static absl::StatusOr<Background> Enter();

  // Releases the parent, the terminal and the current folder; with
  // `keep_standard_error` not that.
  void Ready(bool keep_standard_error);
  // Ends the parent with a message; the child should exit, too.
  void Failed(absl::string_view message);

 private:
  explicit Background(UniqueFd parent) : parent_(std::move(parent)) {}
  UniqueFd parent_;
};

// A pidfile, from the start of the process that it names to its end. What is in
// another's place, or names another process, is never removed. Movable; to
// forget it removes nothing, which is what a process forked off does.
class Pidfile {
 public:
  // None.
  Pidfile() = default;
  // Writes the process id and a newline to a new file, or over what is in a
  // regular file. AlreadyExists when it can't, or when it would be by a link.
  static absl::StatusOr<Pidfile> Write(const std::string& path);
  // Removes it. Where this process, which may be another user's by now, has no
  // right to, it is emptied: it must not name a process that is no more, whose
  // number may soon be another's.
  void Remove();

 private:
  UniqueFd directory_;
  UniqueFd file_;
  std::string name_;  // in the directory
};

// Changes to what --user and --group name, for good, and gives them the Unix
// socket of `sockets` before. Both are names or numbers; an empty one changes
// nothing, and a user without a group brings its own groups. InvalidArgument
// says which of them there is not; another code, that this process may not.
absl::Status ChangeUser(const std::string& user, const std::string& group,
                        const BoundSockets& sockets);

// Runs `command` by the shell, with `variables` in its environment.
absl::StatusOr<pid_t> StartCommand(
    const std::string& command,
    const std::vector<std::pair<std::string, std::string>>& variables);

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_DAEMON_H_
