// Runs the real program, the one that NBDINETD names, the way a superserver
// does: with the client's stream on descriptor 0 and standard error in a file
// of its own.

#ifndef NBDINETD_TESTS_SUPPORT_SERVER_PROCESS_H_
#define NBDINETD_TESTS_SUPPORT_SERVER_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace nbdtest {

// No test waits longer than this for anything. It is no expectation about
// speed: a server that needs so long is taken for one that hangs.
inline constexpr std::chrono::seconds kHangGuard{60};

// How a process ended.
struct ExitReport {
  std::optional<int> status;  // Nothing when a signal ended it.
  int signal = 0;
  std::string standard_error;
};

class ServerProcess {
 public:
  struct Setup {
    std::vector<std::string> arguments = {};
    // Descriptors 0 and 1 of the server. The caller keeps and closes its own
    // copies.
    int in = -1;
    int out = -1;
    // Descriptor 3 is `in`, and LISTEN_FDS says so: a connection (Accept=yes)
    // or a listener (Accept=no). Descriptors 0 and 1 are /dev/null then.
    bool activated = false;
    // Besides the test's own: "NAME=value".
    std::vector<std::string> environment = {};
    // RLIMIT_FSIZE of the server in bytes, which makes larger writes fail with
    // EFBIG.
    std::optional<unsigned long> file_size_limit = std::nullopt;
  };

  explicit ServerProcess(const Setup& setup);
  // Kills the server if it still runs: a test must not leave processes behind.
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // How often the main thread has gone to sleep so far; -1 when it is gone.
  long Sleeps() const;
  // Waits until the main thread sleeps, or has ended.
  void WaitUntilAsleep() const;
  // Waits until Sleeps() isn't `before` any more; throws when the server has
  // ended, or after kHangGuard.
  void WaitUntilItHasSlept(long before) const;
  // What the server has written to standard error so far.
  std::string StandardError() const;
  // The most memory the process ever had resident, in KiB (VmHWM).
  long PeakMemoryKib() const;

  // Waits until the process has ended; throws when it does not within
  // kHangGuard, and when standard error holds a report of a sanitizer.
  const ExitReport& WaitForExit();

 private:
  bool Poll();
  // As in /proc/PID/stat: 'R', 'S', 'Z' and so on; 'X' when it is gone.
  char State() const;

  pid_t pid_ = -1;
  int error_fd_ = -1;
  std::optional<ExitReport> report_;
};

// The path of the program under test; throws when NBDINETD is not set.
std::string ProgramPath();

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_SERVER_PROCESS_H_
