#include "server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "wire.h"

extern char** environ;

namespace nbdtest {

namespace {

// The child only makes calls that are safe after fork(): everything it needs is
// built before.
struct ChildPlan {
  std::string path;
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::vector<char*> argv;
  std::vector<char*> envp;

  explicit ChildPlan(const ServerProcess::Setup& setup) : path(ProgramPath()) {
    arguments.push_back(path);
    arguments.insert(arguments.end(), setup.arguments.begin(),
                     setup.arguments.end());
    for (char** entry = environ; *entry != nullptr; ++entry) {
      // What the test runner itself inherited must not look like socket
      // activation or like a superserver's word on the peer.
      const std::string_view name(*entry);
      if (name.starts_with("LISTEN_") || name.starts_with("REMOTE_")) continue;
      environment.emplace_back(name);
    }
    environment.insert(environment.end(), setup.environment.begin(),
                       setup.environment.end());
    if (setup.activated) {
      environment.emplace_back("LISTEN_FDS=1");
      environment.emplace_back(kListenPid + std::string(20, '\0'));
    }
    for (std::string& argument : arguments) argv.push_back(argument.data());
    for (std::string& entry : environment) envp.push_back(entry.data());
    argv.push_back(nullptr);
    envp.push_back(nullptr);
  }

  // The last variable is the one that only the child can fill in.
  void FillInListenPid() {
    char* digit = environment.back().data() + sizeof(kListenPid) - 1;
    char digits[20];
    size_t count = 0;
    for (auto rest = static_cast<unsigned>(getpid()); rest > 0; rest /= 10) {
      digits[count++] = static_cast<char>('0' + rest % 10);
    }
    while (count > 0) *digit++ = digits[--count];
  }

  static constexpr char kListenPid[] = "LISTEN_PID=";
};

[[noreturn]] void RunChild(const ServerProcess::Setup& setup, ChildPlan& plan,
                           int error_fd) {
  // Copies above the standard descriptors first, so that no dup2 overwrites a
  // source.
  const int in = fcntl(setup.in, F_DUPFD_CLOEXEC, 10);
  const int out = fcntl(setup.out, F_DUPFD_CLOEXEC, 10);
  const int error = fcntl(error_fd, F_DUPFD_CLOEXEC, 10);
  if (setup.activated) {
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) _exit(126);
    if (dup2(in, 3) < 0) _exit(126);
    plan.FillInListenPid();
  } else if (dup2(in, 0) < 0 || dup2(out, 1) < 0) {
    _exit(126);
  }
  if (dup2(error, 2) < 0) _exit(126);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // The test ignores SIGPIPE, whoever started it may ignore others, and an
  // ignored signal stays ignored across exec. The server has to get along with
  // the default, which is what inetd gives it.
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  if (setup.file_size_limit.has_value()) {
    const struct rlimit limit = {*setup.file_size_limit,
                                 *setup.file_size_limit};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(126);
  }
  execve(plan.path.c_str(), plan.argv.data(), plan.envp.data());
  _exit(127);
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t count =
        pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (count <= 0) return text;
    text.append(buffer, static_cast<size_t>(count));
  }
}

}  // namespace

std::string ProgramPath() {
  const char* path = std::getenv("NBDINETD");
  if (path == nullptr) {
    throw std::runtime_error(
        "NBDINETD must hold the path of the program under test");
  }
  return path;
}

ServerProcess::ServerProcess(const Setup& setup) {
  ChildPlan plan(setup);
  // Without a name, so that nothing is left behind however the test ends; on
  // memory, so that RLIMIT_FSIZE and a full disk do not matter to it. Append
  // mode is what a log file has.
  error_fd_ = memfd_create("nbdinetd-standard-error", MFD_CLOEXEC);
  if (error_fd_ < 0 || fcntl(error_fd_, F_SETFL, O_APPEND) != 0) {
    throw std::runtime_error(std::string("failed to capture standard error: ") +
                             std::strerror(errno));
  }
  pid_ = fork();
  if (pid_ < 0)
    throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
  if (pid_ == 0) RunChild(setup, plan, error_fd_);
}

ServerProcess::~ServerProcess() {
  if (!report_.has_value()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(error_fd_);
}

void ServerProcess::Signal(int signal) const {
  // Once it is reaped the number may be somebody else's.
  if (!report_.has_value()) kill(pid_, signal);
}

long ServerProcess::Sleeps() const {
  std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
  std::string word;
  while (status >> word) {
    long count = 0;
    if (word == "voluntary_ctxt_switches:" && status >> count) return count;
  }
  return -1;
}

char ServerProcess::State() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
  std::string text;
  std::getline(file, text);
  // Behind the program's name, which is in parentheses.
  const size_t at = text.rfind(") ");
  return at == std::string::npos ? 'X' : text[at + 2];
}

void ServerProcess::WaitUntilAsleep() const {
  const auto deadline = std::chrono::steady_clock::now() + kHangGuard;
  for (;;) {
    const char state = State();
    if (state != 'R' && state != 'D') return;
    if (std::chrono::steady_clock::now() > deadline) {
      throw BrokenConversation("the server never sleeps");
    }
    std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
}

void ServerProcess::WaitUntilItHasSlept(long before) const {
  const auto deadline = std::chrono::steady_clock::now() + kHangGuard;
  while (Sleeps() == before) {
    const char state = State();
    if (state == 'Z' || state == 'X') {
      throw BrokenConversation("the server has ended; standard error:\n" +
                               StandardError());
    }
    if (std::chrono::steady_clock::now() > deadline) {
      throw BrokenConversation("the server doesn't sleep again");
    }
    std::this_thread::yield();
  }
}

std::string ServerProcess::StandardError() const { return ReadAll(error_fd_); }

long ServerProcess::PeakMemoryKib() const {
  std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
  std::string word;
  while (status >> word) {
    long kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib;
  }
  throw std::runtime_error("the server has no VmHWM in /proc; has it ended?");
}

bool ServerProcess::Poll() {
  int status = 0;
  const pid_t pid = waitpid(pid_, &status, WNOHANG);
  if (pid == 0) return false;
  if (pid < 0)
    throw std::runtime_error(std::string("waitpid: ") + std::strerror(errno));
  ExitReport report;
  if (WIFEXITED(status)) report.status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) report.signal = WTERMSIG(status);
  report.standard_error = StandardError();
  report_ = report;
  return true;
}

const ExitReport& ServerProcess::WaitForExit() {
  const auto deadline = std::chrono::steady_clock::now() + kHangGuard;
  while (!report_.has_value() && !Poll()) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw BrokenConversation(
          "the server did not end; standard error so far:\n" + StandardError());
    }
    std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  const std::string& error = report_->standard_error;
  if (error.find("Sanitizer") != std::string::npos ||
      error.find("runtime error:") != std::string::npos) {
    throw BrokenConversation("a sanitizer reported:\n" + error);
  }
  return *report_;
}

}  // namespace nbdtest
