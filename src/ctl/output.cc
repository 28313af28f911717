#include "ctl/output.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/errors.h"
#include "base/unique_fd.h"

namespace nbdinetd::ctl {
namespace {

// Returns 0 or an errno value.
int WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

struct TerminalSize {
  size_t columns = 80, rows = 24;
};

TerminalSize SizeOfTerminal() {
  TerminalSize size;
  winsize window = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) {
    size = {window.ws_col, window.ws_row};
  }
  uint32_t columns = 0;
  const char* variable = getenv("COLUMNS");
  if (variable != nullptr && absl::SimpleAtoi(variable, &columns) &&
      columns > 0) {
    size.columns = columns;
  }
  return size;
}

// The command of the pager; empty for none.
std::string PagerCommand() {
  for (const char* name : {"SYSTEMD_PAGER", "PAGER"}) {
    const char* command = getenv(name);
    if (command == nullptr) continue;
    const std::string text = command;
    return text == "cat" ? "" : text;
  }
  return "less";
}

// Prints by the pager. False if it can't be started.
bool PrintByPager(const std::string& command, absl::string_view text) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  UniqueFd input(ends[0]), output(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return false;
  if (pid == 0) {
    dup2(input.get(), STDIN_FILENO);
    // As systemctl sets them: a pager that a privileged user runs must not
    // start a shell.
    setenv("LESS", "FRSXMK", 1);
    setenv("LESSSECURE", "1", 1);
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  input.Reset();
  WriteAll(output.get(), text);
  output.Reset();
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return !WIFEXITED(status) || WEXITSTATUS(status) != 127;
}

}  // namespace

absl::Status PrintText(absl::string_view text) {
  const int error_number = WriteAll(STDOUT_FILENO, text);
  if (error_number == 0) return absl::OkStatus();
  return ErrnoStatus(error_number, "failed to write to standard output");
}

void Warn(absl::string_view text) {
  WriteAll(STDERR_FILENO, absl::StrCat("nbdinetctl: ", text, "\n"));
}

absl::Status PrintTable(const CommandLine& line, const Table& table) {
  if (line.json != Json::kOff) {
    return PrintText(table.InJson(line.json));
  }
  TableStyle style = {.legend = line.legend && !table.empty(),
                      .width = 0,
                      .now = absl::Now(),
                      .zone = absl::LocalTimeZone()};
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  const TerminalSize size = terminal ? SizeOfTerminal() : TerminalSize();
  if (terminal && !line.full) style.width = size.columns;
  const std::string text = table.Text(style);
  const auto lines =
      static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  if (terminal && line.pager && lines >= size.rows) {
    const std::string command = PagerCommand();
    if (!command.empty() && PrintByPager(command, text)) {
      return absl::OkStatus();
    }
  }
  return PrintText(text);
}

}  // namespace nbdinetd::ctl
