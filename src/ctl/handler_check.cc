#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/unique_fd.h"
#include "ctl/copy_base.h"
#include "ctl/json_reader.h"
#include "ctl/unit_checks.h"
#include "ctl/unit_user.h"

namespace nbdinetd::ctl {
namespace {

using Level = Finding::Level;

// The exit status and the output of a program.
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

// What the service will find in $STATE_DIRECTORY. The manager makes it when the
// service first starts; until then, an empty one takes its place.
class StateDirectory {
 public:
  // The path is empty if the service has none.
  StateDirectory(std::string path, const UnitUser& user)
      : path_(std::move(path)) {
    struct stat st;
    if (path_.empty() || stat(path_.c_str(), &st) == 0) return;
    char made[] = "/tmp/nbdinetctl-XXXXXX";
    if (mkdtemp(made) == nullptr) return;
    path_ = made;
    is_made_ = true;
    if (user.must_change) {
      [[maybe_unused]] const int ignored = chown(made, user.uid, user.gid);
    }
  }
  ~StateDirectory() {
    if (is_made_) rmdir(path_.c_str());
  }
  StateDirectory(const StateDirectory&) = delete;
  StateDirectory& operator=(const StateDirectory&) = delete;

  // Sets the variable, or unsets it.
  void Export() const {
    if (path_.empty()) {
      unsetenv("STATE_DIRECTORY");
    } else {
      setenv("STATE_DIRECTORY", path_.c_str(), 1);
    }
  }

 private:
  std::string path_;
  bool is_made_ = false;
};

// Runs a program as `user`.
Finished Run(const std::vector<std::string>& command, const UnitUser& user,
             const StateDirectory& state) {
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
    state.Export();
    if (Become(user)) execv(argv[0], argv.data());
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
                                   const ManagedExport& target,
                                   const std::vector<std::string>& asked) {
  const bool has_credentials =
      !service.Get<StringPairs>("LoadCredential").empty();
  std::vector<std::string> command = {
      service.Get<StringLists>("ExecStart")[0][0], "--check=json"};
  const std::vector<std::string>& arguments =
      has_credentials ? target.served.without_tls : target.arguments;
  for (const std::string& who : asked) {
    command.push_back(absl::StrCat("--as=", who));
  }
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

// The lines that nbdinetd has logged.
void AddLines(absl::string_view text, Level level,
              std::vector<Finding>& findings) {
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    absl::ConsumePrefix(&line, "nbdinetd: ");
    findings.push_back({level, std::string(line)});
  }
}

// The hints of the report. Those on the shipped units are left out: other
// findings are about the settings that the unit has.
void AddHints(absl::string_view report, std::vector<Finding>& findings) {
  auto members = JsonMembers(report);
  if (!members.has_value()) return;
  const auto hints = JsonElements((*members)["hints"]);
  if (!hints.has_value()) return;
  for (const std::string& hint : *hints) {
    findings.push_back({Level::kWarning, JsonText(hint).value_or(hint)});
  }
}

// What the report says of the client that was asked about.
void AddAnswers(absl::string_view report, std::vector<Finding>& findings) {
  auto members = JsonMembers(report);
  if (!members.has_value()) return;
  const std::string who = JsonText((*members)["as"]).value_or("");
  const auto reason = JsonText((*members)["as_reason"]);
  if (reason.has_value()) {
    findings.push_back(
        {Level::kError,
         absl::StrCat("would refuse ", Quoted(who), ": ", *reason)});
  }
  const auto exports = JsonElements((*members)["as_exports"]);
  if (!exports.has_value()) return;
  bool gets_any = false;
  for (const std::string& element : *exports) {
    auto answer = JsonMembers(element);
    if (!answer.has_value()) continue;
    const auto text = [&answer](const char* name) {
      return JsonText((*answer)[name]).value_or("");
    };
    const std::string mode = text("mode"), rule = text("rule");
    const std::string exclusive = text("exclusive"), limits = text("limits");
    gets_any |= !mode.empty();
    findings.push_back(
        mode.empty()
            ? Finding{Level::kWarning,
                      absl::StrCat("would show ", Quoted(who), " no export ",
                                   Quoted(text("export")), ": ",
                                   text("reason"))}
            : Finding{Level::kOk,
                      absl::StrCat(
                          "would let ", Quoted(who), " use export ",
                          Quoted(text("export")), " ", mode,
                          exclusive.empty()
                              ? ""
                              : absl::StrCat(", exclusive=", exclusive),
                          limits.empty() ? "" : absl::StrCat(", ", limits),
                          rule.empty() ? ""
                                       : absl::StrCat(", by ", Quoted(rule)))});
  }
  if (!gets_any && !reason.has_value()) {
    findings.push_back({Level::kError, absl::StrCat("there is nothing that ",
                                                    Quoted(who), " may use")});
  }
}

std::string WouldServe(const ManagedExport& target) {
  const std::string& directory = target.served.directory;
  return directory.empty()
             ? absl::StrCat("nbdinetd would serve ", Quoted(target.served.file))
             : absl::StrCat("nbdinetd would serve the files of ",
                            Quoted(directory));
}

}  // namespace

std::vector<Finding> CheckHandler(const Properties& service,
                                  const ManagedExport& target,
                                  const Where& where,
                                  const std::vector<std::string>& asked) {
  if (!target.arguments_known) {
    return {{Level::kWarning,
             "the file of EnvironmentFile= can't be read, so that its options "
             "aren't checked: run nbdinetctl as root"}};
  }
  const absl::StatusOr<UnitUser> user = UserOf(service, where.user);
  if (!user.ok()) {
    return {{absl::IsNotFound(user.status()) ? Level::kError : Level::kWarning,
             std::string(user.status().message())}};
  }
  const StateDirectory state(StateDirectoryOf(target, where), *user);
  const Finished finished =
      Run(CommandOf(service, target, asked), *user, state);
  std::vector<Finding> findings;
  const bool is_refused =
      !asked.empty() &&
      finished.status == static_cast<int>(ExitStatus::kRefused);
  const bool good = finished.status == 0 || is_refused;
  AddLines(finished.errors, good ? Level::kWarning : Level::kError, findings);
  if (good) AddHints(finished.output, findings);
  if (good && !asked.empty()) AddAnswers(finished.output, findings);
  if (!findings.empty()) return findings;
  return {good ? Finding{Level::kOk, WouldServe(target)}
               : Finding{Level::kError,
                         absl::StrCat("'nbdinetd --check' ended with status ",
                                      finished.status)}};
}

}  // namespace nbdinetd::ctl
