#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/unique_fd.h"
#include "ctl/unit_checks.h"

namespace nbdinetd::ctl {
namespace {

using Level = Finding::Level;

// What a program has printed.
struct Finished {
  int status = 127;
  std::string output;  // standard output
  std::string errors;  // standard error
};

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n =
        pread(fd, buffer, sizeof(buffer), static_cast<off_t>(text.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

// A file without a name, for output.
UniqueFd TemporaryFile() {
  return UniqueFd(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}

// In the child: becomes the user. False if that fails.
bool BecomeUser(const passwd& user) {
  return initgroups(user.pw_name, user.pw_gid) == 0 &&
         setgid(user.pw_gid) == 0 && setuid(user.pw_uid) == 0;
}

// Runs a program as `user`; nullptr for the current one.
Finished Run(const std::vector<std::string>& command, const passwd* user) {
  Finished finished;
  UniqueFd output = TemporaryFile(), errors = TemporaryFile();
  std::vector<char*> argv;
  for (const std::string& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t pid = output.valid() && errors.valid() ? fork() : -1;
  if (pid == 0) {
    const int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(output.get(), STDOUT_FILENO);
    dup2(errors.get(), STDERR_FILENO);
    if (user == nullptr || BecomeUser(*user)) execv(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (pid > 0 && WIFEXITED(status)) finished.status = WEXITSTATUS(status);
  finished.output = ReadAll(output.get());
  finished.errors = ReadAll(errors.get());
  return finished;
}

// nbdinetd's command line for --check. Keys that the manager would load for the
// service aren't in its credentials directory yet.
std::vector<std::string> CommandOf(const Properties& service,
                                   const ManagedExport& target) {
  const bool has_credentials =
      !service.Get<StringPairs>("LoadCredential").empty();
  std::vector<std::string> command = {
      service.Get<StringLists>("ExecStart")[0][0], "--check"};
  for (const std::string& argument : target.arguments) {
    if (has_credentials && absl::StartsWith(argument, "--tls")) continue;
    command.push_back(argument);
  }
  return command;
}

void AddLines(absl::string_view text, Level level,
              std::vector<Finding>& findings) {
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    absl::ConsumePrefix(&line, "nbdinetd: ");
    absl::ConsumePrefix(&line, "hint: ");
    findings.push_back({level, std::string(line)});
  }
}

}  // namespace

std::vector<Finding> CheckHandler(const Properties& service,
                                  const ManagedExport& target) {
  if (!target.arguments_known) {
    return {{Level::kWarning,
             "the file of EnvironmentFile= can't be read, so that its options "
             "aren't checked: run nbdinetctl as root"}};
  }
  const passwd* user = nullptr;
  if (!target.user.empty()) {
    user = getpwnam(target.user.c_str());
    if (user == nullptr) {
      return {{Level::kError,
               absl::StrCat("User=", target.user, ": there is no such user")}};
    }
    // Only root can become somebody else.
    if (user->pw_uid == geteuid() || geteuid() != 0) user = nullptr;
  }
  const Finished finished = Run(CommandOf(service, target), user);
  std::vector<Finding> findings;
  const bool good = finished.status == 0;
  AddLines(finished.errors, good ? Level::kWarning : Level::kError, findings);
  if (good) {
    const size_t end = finished.output.find('\n');
    findings.push_back({Level::kOk, finished.output.substr(0, end)});
  } else if (findings.empty()) {
    findings.push_back(
        {Level::kError, absl::StrCat("'nbdinetd --check' ended with status ",
                                     finished.status)});
  }
  return findings;
}

}  // namespace nbdinetd::ctl
