#include "server/peer_unit.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/unique_fd.h"

// Of asm/socket.h since Linux 6.5.
#ifndef SO_PEERPIDFD
#if defined(__hppa__)
#define SO_PEERPIDFD 0x404B
#elif defined(__sparc__)
#define SO_PEERPIDFD 0x0056
#else
#define SO_PEERPIDFD 77
#endif
#endif

namespace nbdinetd {
namespace {

absl::Status Unknown(absl::string_view reason) {
  return absl::UnavailableError(reason);
}

// Reads at most a page; the files in question are shorter.
absl::StatusOr<std::string> ReadShortFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char content[4096];
  const ssize_t n =
      fd.valid() ? read(fd.get(), content, sizeof(content)) : ssize_t{-1};
  if (n < 0) return Unknown(ErrnoStatus(errno, path).message());
  if (n == sizeof(content)) return Unknown(absl::StrCat(path, " is too long"));
  return std::string(content, static_cast<size_t>(n));
}

bool HasEnded(const UniqueFd& pidfd) {
  pollfd events = {.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return poll(&events, 1, 0) != 0;
}

// systemd escapes names that the kernel has for files of its own
// (cg_escape()).
absl::string_view WithoutEscape(absl::string_view component) {
  return absl::StripPrefix(component, "_");
}

bool IsUnit(absl::string_view component) {
  return absl::EndsWith(component, ".service") ||
         absl::EndsWith(component, ".scope");
}

// Whether the process is in a unit, or a slice, of the hierarchy that systemd
// has where the unified one isn't its own: there, all processes may be in the
// root of the latter.
bool IsBelowRootOfSystemd(absl::string_view content) {
  for (const absl::string_view line : absl::StrSplit(content, '\n')) {
    const size_t name = line.find(":name=systemd:/");
    if (name != absl::string_view::npos && name + 15 < line.size()) return true;
  }
  return false;
}

}  // namespace

int ProcessOfPidfd(absl::string_view content) {
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    if (!absl::ConsumePrefix(&line, "Pid:")) continue;
    int pid = 0;
    return absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &pid) && pid > 0
               ? pid
               : 0;
  }
  return 0;
}

absl::StatusOr<std::string> UnitOfCgroups(absl::string_view content) {
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    if (!absl::ConsumePrefix(&line, "0::/")) continue;
    if (absl::EndsWith(line, " (deleted)")) {
      return Unknown("its control group is deleted");
    }
    if (line.empty() && IsBelowRootOfSystemd(content)) {
      return Unknown(
          "systemd keeps its units in another hierarchy than the unified one "
          "(cgroup v1)");
    }
    for (const absl::string_view part : absl::StrSplit(line, '/')) {
      if (part == "..") {
        return Unknown("its control group is outside of the cgroup namespace");
      }
      const absl::string_view name = WithoutEscape(part);
      if (absl::EndsWith(name, ".slice")) continue;
      return std::string(IsUnit(name) ? name : "");
    }
    return std::string();
  }
  return Unknown("there is no unified hierarchy of control groups");
}

absl::StatusOr<std::string> UnitOfPeer(int fd) {
  int number = -1;
  socklen_t length = sizeof(number);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &number, &length) != 0) {
    if (errno == ENOPROTOOPT) {
      return Unknown("the kernel has no SO_PEERPIDFD: Linux 6.5 has");
    }
    return Unknown(ErrnoStatus(errno, "SO_PEERPIDFD").message());
  }
  const UniqueFd pidfd(number);
  const absl::StatusOr<std::string> information =
      ReadShortFile(absl::StrCat("/proc/self/fdinfo/", number));
  if (!information.ok()) return information.status();
  const int pid = ProcessOfPidfd(*information);
  if (pid == 0) {
    return Unknown("its process has ended, or is in another PID namespace");
  }
  const absl::StatusOr<std::string> cgroups =
      ReadShortFile(absl::StrCat("/proc/", pid, "/cgroup"));
  if (HasEnded(pidfd)) return Unknown("its process has ended");
  if (!cgroups.ok()) return cgroups.status();
  return UnitOfCgroups(*cgroups);
}

}  // namespace nbdinetd
