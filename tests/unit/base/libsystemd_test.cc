// What the program speaks by itself, beside libsystemd's functions on the same
// inputs: LISTEN_FDS and LISTEN_FDNAMES, messages to the service manager, the
// watchdog. The journal's protocol is read back by nbdinetctl
// (tests/system/pid1_nbdinetctl_test.py).

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/service_manager.h"
#include "base/unique_fd.h"
#include "server/activation.h"

namespace nbdinetd {
namespace {

// Runs `function` in a process of its own, which may change its environment and
// descriptors. Returns what it returns.
std::string InChild(const std::function<std::string()>& function) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
  // Above the descriptors of LISTEN_FDS.
  UniqueFd input(fcntl(ends[0], F_DUPFD_CLOEXEC, 100));
  UniqueFd output(fcntl(ends[1], F_DUPFD_CLOEXEC, 100));
  close(ends[0]);
  close(ends[1]);
  const pid_t pid = fork();
  if (pid == 0) {
    const std::string result = function();
    const ssize_t n = write(output.get(), result.data(), result.size());
    _exit(n == static_cast<ssize_t>(result.size()) ? 0 : 1);
  }
  output.Reset();
  std::string result;
  char buffer[1024];
  for (ssize_t n; (n = read(input.get(), buffer, sizeof(buffer))) > 0;) {
    result.append(buffer, static_cast<size_t>(n));
  }
  waitpid(pid, nullptr, 0);
  return result;
}

// Sets a variable; "PID" within its value is this process. Nothing for nullptr.
void Set(const char* name, const char* value) {
  if (value == nullptr) {
    unsetenv(name);
  } else {
    const std::string text =
        absl::StrReplaceAll(value, {{"PID", absl::StrCat(getpid())}});
    setenv(name, text.c_str(), 1);
  }
}

struct ListenInput {
  const char *pid, *fds, *names;
};

// Three files as descriptors 3, 4 and 5, and the variables.
void Activate(const ListenInput& input) {
  for (int fd = 3; fd < 6; ++fd) {
    const int file = open("/etc/passwd", O_RDONLY);
    if (file != fd) dup2(file, fd);
  }
  Set("LISTEN_PID", input.pid);
  Set("LISTEN_FDS", input.fds);
  Set("LISTEN_FDNAMES", input.names);
}

std::string BySystemd(const ListenInput& input) {
  Activate(input);
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(1, &names);
  std::vector<std::string> found;
  for (int i = 0; i < count; ++i) found.push_back(names[i]);
  return absl::StrJoin(found, ":");
}

std::string ByNbdinetd(const ListenInput& input) {
  Activate(input);
  const Inherited inherited = TakeInherited({});
  std::vector<std::string> found;
  for (const NamedFile& file : inherited.files) found.push_back(file.name);
  return absl::StrJoin(found, ":");
}

TEST(Libsystemd, ListenFdsMeanTheSameToBoth) {
  const ListenInput kInputs[] = {
      {"PID", "1", "disk"},     {"PID", "3", "a:b:c"}, {"PID", "2", "a:a"},
      {"PID", "1", nullptr},    {"PID", "2", nullptr}, {"PID", "0", nullptr},
      {nullptr, "1", "disk"},   {"PID", nullptr, "a"}, {"1", "1", "disk"},
      {"PID", "-1", "a"},       {"PID", "x", "a"},     {"x", "1", "a"},
      {"PID", "1", "with%2fx"}, {"", "1", "a"},        {"PID", "", "a"},
  };
  int activated = 0;
  for (const ListenInput& input : kInputs) {
    const std::string theirs = InChild([&] { return BySystemd(input); });
    const std::string ours = InChild([&] { return ByNbdinetd(input); });
    EXPECT_EQ(ours, theirs) << input.pid << " " << input.fds;
    activated += theirs.empty() ? 0 : 1;
  }
  EXPECT_EQ(activated, 6);
}

// A service manager's socket.
class Manager {
 public:
  explicit Manager(bool abstract)
      : name_(absl::StrCat(abstract ? "@" : "/tmp/", "nbdinetd-libsystemd-",
                           getpid())),
        socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, name_.data(), name_.size());
    if (abstract) address.sun_path[0] = '\0';
    const size_t length = offsetof(sockaddr_un, sun_path) + name_.size();
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address),
                   static_cast<socklen_t>(length + (abstract ? 0 : 1))),
              0);
  }
  ~Manager() {
    if (name_[0] == '/') unlink(name_.c_str());
  }
  const std::string& name() const { return name_; }

  // The message that has arrived; nullopt for none.
  std::optional<std::string> Take() {
    char buffer[4096];
    const ssize_t n = recv(socket_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n < 0) return std::nullopt;
    return std::string(buffer, static_cast<size_t>(n));
  }

 private:
  std::string name_;
  UniqueFd socket_;
};

TEST(Libsystemd, MessagesToTheManagerAreTheSame) {
  for (const bool abstract : {false, true}) {
    Manager manager(abstract);
    setenv("NOTIFY_SOCKET", manager.name().c_str(), 1);
    {
      ServiceManager ours;
      EXPECT_TRUE(ours.Ready("3 connections"));
      const auto message = manager.Take();
      EXPECT_GT(sd_notify(0, "READY=1\nSTATUS=3 connections"), 0);
      EXPECT_EQ(message, manager.Take());
      EXPECT_TRUE(ours.Status("x"));
      const auto status = manager.Take();
      sd_notify(0, "STATUS=x");
      EXPECT_EQ(status, manager.Take());
      EXPECT_TRUE(ours.Stopping("y"));
      const auto stopping = manager.Take();
      sd_notify(0, "STOPPING=1\nSTATUS=y");
      EXPECT_EQ(stopping, manager.Take());
    }
    unsetenv("NOTIFY_SOCKET");
    EXPECT_FALSE(ServiceManager().present());
    EXPECT_EQ(sd_notify(0, "STATUS=x"), 0);
  }
}

TEST(Libsystemd, BothRefuseANameThatIsNoSocket) {
  for (const char* name : {"relative", "@", "", "/nonexistent/socket"}) {
    setenv("NOTIFY_SOCKET", name, 1);
    EXPECT_LE(sd_notify(0, "STATUS=x"), 0) << name;
    EXPECT_FALSE(ServiceManager().present()) << name;
  }
  unsetenv("NOTIFY_SOCKET");
}

struct WatchdogInput {
  const char *usec, *pid;
};

TEST(Libsystemd, TheWatchdogIsEnabledForBothOrNeither) {
  const WatchdogInput kInputs[] = {
      {"30000000", "PID"}, {"30000000", nullptr}, {"30000000", "1"},
      {nullptr, "PID"},    {"0", "PID"},          {"-5", "PID"},
      {"soon", "PID"},     {"", "PID"},           {"30000000", "me"},
      {"30000000", ""},    {"1", "PID"},          {"1.5", "PID"},
  };
  Manager manager(true);
  setenv("NOTIFY_SOCKET", manager.name().c_str(), 1);
  int enabled = 0;
  for (const WatchdogInput& input : kInputs) {
    Set("WATCHDOG_USEC", input.usec);
    Set("WATCHDOG_PID", input.pid);
    uint64_t usec = 0;
    const bool theirs = sd_watchdog_enabled(0, &usec) > 0;
    ServiceManager ours;
    ours.KeepAlive();
    const auto message = manager.Take();
    EXPECT_EQ(message.has_value(), theirs)
        << (input.usec == nullptr ? "-" : input.usec) << " "
        << (input.pid == nullptr ? "-" : input.pid);
    enabled += theirs ? 1 : 0;
    if (!theirs) continue;
    sd_notify(0, "WATCHDOG=1");
    EXPECT_EQ(message, manager.Take());
  }
  EXPECT_EQ(enabled, 3);
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
  unsetenv("NOTIFY_SOCKET");
}

}  // namespace
}  // namespace nbdinetd
