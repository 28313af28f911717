#include "ctl/client_process.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <mutex>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace nbdinetd::ctl {
namespace {

// 0 if the process belongs to the unit, ESRCH if it doesn't or has ended, and
// another errno value if that can't be read.
int BelongsTo(pid_t pid, const std::string& unit) {
  errno = 0;
  std::ifstream file(absl::StrCat("/proc/", pid, "/cgroup"));
  if (!file.is_open() && errno != ENOENT && errno != 0) return errno;
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "0::") &&
        absl::StrContains(line + "/", absl::StrCat("/", unit, "/"))) {
      return 0;
    }
  }
  return ESRCH;
}

// Lets this process have as many descriptors as it may, since a caller may keep
// one for each connection.
void WantManyDescriptors() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

bool WaitsFor(uint64_t pid, int signal) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(file, line);) {
    uint64_t blocked = 0;
    if (!absl::StartsWith(line, "SigBlk:\t")) continue;
    const auto blocks = [&blocked](int number) {
      return (blocked >> (number - 1) & 1) != 0;
    };
    return absl::SimpleHexAtoi(line.substr(8), &blocked) && blocks(signal) &&
           !blocks(SIGUSR2);
  }
  return false;
}

UniqueFd OpenClientProcess(const LiveConnection& connection) {
  static std::once_flag wanted;
  std::call_once(wanted, WantManyDescriptors);
  const auto pid = static_cast<pid_t>(*connection.pid);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  // The unit is checked only now, when the descriptor stands for this process.
  if (!pidfd.valid()) return pidfd;
  if (const int error = BelongsTo(pid, connection.unit)) {
    pidfd.Reset();
    errno = error;
  }
  return pidfd;
}

int SendSignal(const UniqueFd& pidfd, int number, uint64_t value) {
  siginfo_t info = {};
  info.si_signo = number;
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_ptr = reinterpret_cast<void*>(value);
  return syscall(SYS_pidfd_send_signal, pidfd.get(), number,
                 value == 0 ? nullptr : &info, 0) == 0
             ? 0
             : errno;
}

}  // namespace nbdinetd::ctl
