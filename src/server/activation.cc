#include "server/activation.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/errors.h"
#include "server/peer.h"

namespace nbdinetd {
namespace {

// The types of descriptors that this file distinguishes.
enum class Kind {
  kConnection,  // a stream socket that doesn't listen
  kListener,
  kFile,  // a regular file or block device
  kPipe,
  kOther,
};

struct DescriptorType {
  Kind kind;
  const char* description;
};

int SocketOption(int fd, int option) {
  int value = -1;
  socklen_t length = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

DescriptorType TypeOf(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return {Kind::kOther, "not open"};
  switch (st.st_mode & S_IFMT) {
    case S_IFSOCK:
      if (SocketOption(fd, SO_TYPE) != SOCK_STREAM) {
        return {Kind::kOther, "a socket, but no stream socket"};
      }
      if (SocketOption(fd, SO_ACCEPTCONN) == 1) {
        return {Kind::kListener, "a listening socket"};
      }
      return {Kind::kConnection, "a connected socket"};
    case S_IFIFO:
      return {Kind::kPipe, "a pipe"};
    case S_IFREG:
      return {Kind::kFile, "a regular file"};
    case S_IFBLK:
      return {Kind::kFile, "a block device"};
    case S_IFCHR:
      if (st.st_rdev == makedev(1, 3)) {
        return {Kind::kOther, "/dev/null, a character device"};
      }
      return {Kind::kOther, isatty(fd) ? "a terminal" : "a character device"};
    case S_IFDIR:
      return {Kind::kOther, "a directory"};
    default:
      return {Kind::kOther, "of an unknown kind"};
  }
}

mode_t ModeOf(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 ? st.st_mode : 0;
}

bool IsSameFile(int a, int b) {
  struct stat sa, sb;
  return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
         sa.st_ino == sb.st_ino;
}

bool IsNull(int fd) {
  const dev_t null = makedev(1, 3);  // Linux's allocated devices
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == null;
}

absl::Status OpenNull(int fd) {
  const int null = open("/dev/null", O_RDWR);
  if (null < 0) {
    // For example, no descriptor is left; `fd` is then unchanged.
    return ErrnoStatus(errno, absl::StrCat("failed to open '/dev/null' as file "
                                           "descriptor ",
                                           fd));
  }
  if (null == fd) return absl::OkStatus();
  dup2(null, fd);
  if (null > STDERR_FILENO) close(null);
  return absl::OkStatus();
}

// Opens closed standard descriptors, so that no later open() returns 0, 1 or 2.
absl::Status FillStandardDescriptors() {
  absl::Status status;
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) status.Update(OpenNull(fd));
  }
  return status;
}

// Copies `fd` above the standard descriptors; `fd` itself becomes /dev/null.
absl::StatusOr<UniqueFd> MoveAway(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!copy.valid()) {
    return ErrnoStatus(errno, "failed to take over standard input and output");
  }
  const absl::Status status = OpenNull(fd);
  if (!status.ok()) return status;
  return copy;
}

// Makes each of 0, 1 and 2 that is one of `clients` /dev/null; sets
// standard_error_is_peer if it was standard error.
void DetachStandardDescriptors(absl::Span<const int> clients,
                               Inherited* inherited) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    for (const int client : clients) {
      if (!IsSameFile(fd, client)) continue;
      inherited->status.Update(OpenNull(fd));
      if (fd == STDERR_FILENO) inherited->standard_error_is_peer = true;
      break;
    }
  }
}

absl::Status UsageError(int fd, absl::string_view is,
                        absl::string_view advice) {
  return absl::InvalidArgumentError(
      absl::StrCat("file descriptor ", fd, " is ", is, ": ", advice));
}

// The protocol of sd_listen_fds(3), implemented as its manual page describes
// it: loading libsystemd and its libraries takes longer than everything else up
// to the greeting.
constexpr int kListenFdsStart = 3;
constexpr int kMaxListenFds = 1024;
// systemd's name for a descriptor without one (sd_listen_fds_with_names(3)).
constexpr char kUnnamed[] = "unknown";

struct Listed {
  absl::Status status;
  int count = 0;
  std::vector<std::string> names;
  // The value of LISTEN_FDS, if it hands nothing to this process.
  std::string found = "not set";
  // LISTEN_FDS hands sockets to another process.
  bool sockets_of_another = false;
};

absl::Status Unusable(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "the environment's LISTEN_FDS and LISTEN_PID are unusable: ", why));
}

// Closes the sockets that were meant for process `pid`, such as the shell that
// started this one. A listening socket that stays open would accept clients
// that are never served; and after a socket was handed over, this process
// listens by itself only if an option requires it. Other descriptors may have
// another purpose.
void CloseSocketsOf(pid_t pid, absl::string_view count_text, Listed* listed) {
  listed->found =
      absl::StrCat("for process ", pid, ", not for this process ", getpid());
  int count = 0;
  if (!absl::SimpleAtoi(count_text, &count)) return;
  for (int i = 0; i < std::min(count, kMaxListenFds); ++i) {
    if (!S_ISSOCK(ModeOf(kListenFdsStart + i))) continue;
    close(kListenFdsStart + i);
    listed->sockets_of_another = true;
  }
}

absl::Status TakeDescriptors(absl::string_view count_text, Listed* listed) {
  int count = 0;
  if (!absl::SimpleAtoi(count_text, &count) || count < 0 ||
      count > kMaxListenFds) {
    return Unusable(absl::StrCat("LISTEN_FDS=", Quoted(count_text),
                                 " is no number of descriptors"));
  }
  for (int fd = kListenFdsStart; fd < kListenFdsStart + count; ++fd) {
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
      return Unusable(
          absl::StrCat("file descriptor ", fd, ": ", ErrnoText(errno)));
    }
  }
  // Also if the names are unusable: this process must close the descriptors.
  listed->count = count;
  listed->names.assign(static_cast<size_t>(count), kUnnamed);
  if (const char* names_text = getenv("LISTEN_FDNAMES")) {
    std::vector<std::string> names = absl::StrSplit(names_text, ':');
    if (names.size() != static_cast<size_t>(count)) {
      return Unusable(absl::StrCat("LISTEN_FDNAMES has ", names.size(),
                                   " names for ", count, " descriptors"));
    }
    listed->names = std::move(names);
  }
  listed->found = "without a socket";
  return absl::OkStatus();
}

absl::Status ReadListenFds(Listed* listed) {
  const char* pid_text = getenv("LISTEN_PID");
  const char* count_text = getenv("LISTEN_FDS");
  if (count_text == nullptr) return absl::OkStatus();
  if (pid_text == nullptr) {
    listed->found = "set, but LISTEN_PID is not";
    return absl::OkStatus();
  }
  // LISTEN_FDS=0 is no socket activation.
  if (absl::string_view(count_text) == "0") {
    listed->found = "0";
    return absl::OkStatus();
  }
  pid_t pid = 0;
  if (!absl::SimpleAtoi(pid_text, &pid) || pid <= 0) {
    return Unusable(
        absl::StrCat("LISTEN_PID=", Quoted(pid_text), " is no process id"));
  }
  if (pid == getpid()) return TakeDescriptors(count_text, listed);
  CloseSocketsOf(pid, count_text, listed);
  return absl::OkStatus();
}

// Reads the variables of the socket activation protocol, and unsets them.
Listed TakeListenFds() {
  Listed listed;
  listed.status = ReadListenFds(&listed);
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    unsetenv(name);
  }
  return listed;
}

absl::Status CheckActivated(const Inherited& inherited,
                            const ActivationOptions& options) {
  if (inherited.connection.has_value() && !inherited.listeners.empty()) {
    return UsageError(inherited.connection->input.get(), "a connected socket",
                      absl::StrCat("it can't be served beside the listening "
                                   "socket that is file descriptor ",
                                   inherited.listeners[0].get()));
  }
  if (!inherited.activated) return absl::OkStatus();
  const std::string option =
      options.single ? std::string("--single") : options.own_socket;
  if (option.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option,
                   " can't be used under socket activation: the .socket unit "
                   "says where to listen; leave the option out"));
}

// Rule 1: the descriptors of the socket activation protocol.
Inherited TakeActivated(const Listed& listed,
                        const ActivationOptions& options) {
  Inherited inherited;
  std::vector<int> clients;
  for (int i = 0; i < listed.count; ++i) {
    UniqueFd fd(kListenFdsStart + i);
    const DescriptorType type = TypeOf(fd.get());
    switch (type.kind) {
      case Kind::kConnection:
        clients.push_back(fd.get());
        if (inherited.connection.has_value()) {
          inherited.status.Update(
              UsageError(fd.get(), "a second connected socket",
                         "one process serves one connection; set Accept=yes "
                         "in the .socket unit"));
          // Closed later: standard error may be the same socket.
          inherited.surplus.emplace_back(std::move(fd));
        } else {
          std::string peer = PeerName(fd.get());
          inherited.connection = Connection{ConnectionFd(std::move(fd)),
                                            UniqueFd(), std::move(peer)};
        }
        break;
      case Kind::kListener:
        inherited.listeners.push_back(std::move(fd));
        break;
      case Kind::kFile:
        inherited.files.push_back(
            {std::move(fd), listed.names[static_cast<size_t>(i)]});
        break;
      case Kind::kPipe:
      case Kind::kOther:
        inherited.status.Update(UsageError(
            fd.get(), type.description,
            "socket activation passes stream sockets, regular files and block "
            "devices"));
        break;
    }
  }
  inherited.activated =
      inherited.connection.has_value() || !inherited.listeners.empty();
  DetachStandardDescriptors(clients, &inherited);
  inherited.status.Update(CheckActivated(inherited, options));
  return inherited;
}

// Rule 2: standard input, from inetd or ssh, for example.
void TakeStandardInput(bool single, Inherited* inherited) {
  const DescriptorType input = TypeOf(STDIN_FILENO);
  const DescriptorType output = TypeOf(STDOUT_FILENO);
  const bool is_socket = input.kind == Kind::kConnection;
  const bool are_pipes =
      single && input.kind == Kind::kPipe && output.kind == Kind::kPipe;
  if (input.kind == Kind::kListener) {
    inherited->status =
        UsageError(STDIN_FILENO, input.description,
                   "as standard input it must be a connection; use 'nowait' in "
                   "inetd.conf, 'wait = no' for xinetd");
    return;
  }
  if (!is_socket && !are_pipes) {
    if (!single) return;
    const bool input_is_wrong = input.kind != Kind::kPipe;
    inherited->status = UsageError(
        input_is_wrong ? STDIN_FILENO : STDOUT_FILENO,
        input_is_wrong ? input.description : output.description,
        "--single needs a socket as standard input, or pipes as standard "
        "input and output");
    return;
  }
  std::string peer = is_socket ? PeerName(STDIN_FILENO) : PeerFromEnvironment();
  if (peer.empty()) peer = "pipe";
  absl::StatusOr<UniqueFd> in = MoveAway(STDIN_FILENO);
  absl::StatusOr<UniqueFd> out =
      are_pipes ? MoveAway(STDOUT_FILENO) : UniqueFd();
  inherited->status.Update(in.status());
  inherited->status.Update(out.status());
  if (!inherited->status.ok()) return;
  const int ends[] = {in->get(), out->get()};
  DetachStandardDescriptors(ends, inherited);
  inherited->connection = Connection{ConnectionFd(*std::move(in)),
                                     *std::move(out), std::move(peer)};
}

// Rule 3: stand-alone mode. At a terminal, nothing else can be meant. A
// service, a cron job or a part of a pipeline without a connection was started
// wrongly, and must not become a server on every address.
absl::Status CheckStandAlone(const Listed& listed,
                             const ActivationOptions& options) {
  if (!options.own_socket.empty() || options.foreground) {
    return absl::OkStatus();
  }
  if (isatty(STDIN_FILENO) && !listed.sockets_of_another) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "there is no connection to serve: LISTEN_FDS, by which systemd passes "
      "one, "
      "is ",
      listed.found, ", and standard input, where inetd passes one, is ",
      TypeOf(STDIN_FILENO).description,
      "; under systemd start nbdinetd.socket instead; to listen without a "
      "service manager, ask for it by -f, -p, -i, -U, --vsock or --run"));
}

// Applies the three rules in order.
Inherited TakeAny(const ActivationOptions& options) {
  const Listed listed = TakeListenFds();
  Inherited inherited = TakeActivated(listed, options);
  if (!listed.status.ok()) {
    inherited.status = listed.status;
    return inherited;
  }
  if (!inherited.status.ok() || inherited.activated) return inherited;
  const bool stand_alone = !options.own_socket.empty() || options.foreground;
  if (options.single || !stand_alone) {
    TakeStandardInput(options.single, &inherited);
  }
  if (inherited.status.ok() && !inherited.connection.has_value()) {
    inherited.status = CheckStandAlone(listed, options);
  }
  return inherited;
}

// The descriptors that stay open, sorted.
std::vector<int> Known(const Inherited& inherited,
                       absl::Span<const std::string> paths) {
  std::vector<int> known = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
  if (inherited.connection.has_value()) {
    known.push_back(inherited.connection->input.get());
    known.push_back(inherited.connection->output.get());
  }
  for (const UniqueFd& fd : inherited.listeners) known.push_back(fd.get());
  for (const ConnectionFd& fd : inherited.surplus) known.push_back(fd.get());
  for (const NamedFile& file : inherited.files) known.push_back(file.fd.get());
  for (const std::string& path : paths) {
    for (absl::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
      int fd;
      if (absl::StartsWith(path, folder) &&
          absl::SimpleAtoi(
              *absl::StrSplit(path.substr(folder.size()), '/').begin(), &fd)) {
        known.push_back(fd);
      }
    }
  }
  std::sort(known.begin(), known.end());
  return known;
}

// False when the kernel has no close_range(2) (before Linux 5.9), or the
// seccomp filter of a container blocks it.
bool CloseRange(unsigned first, unsigned last) {
  constexpr long kCloseRange = 436;  // on all architectures
  return first > last || syscall(kCloseRange, first, last, 0) == 0;
}

// Closes all descriptors except `known`, which are sorted.
bool CloseRanges(absl::Span<const int> known) {
  unsigned first = 0;
  for (const int fd : known) {
    if (fd < 0) continue;
    const auto number = static_cast<unsigned>(fd);
    if (number > first && !CloseRange(first, number - 1)) return false;
    first = number + 1;
  }
  return CloseRange(first, UINT_MAX);
}

// The open descriptors from /proc; without it, all possible ones.
std::vector<int> OpenDescriptors() {
  std::vector<int> numbers;
  if (DIR* folder = opendir("/proc/self/fd")) {
    while (const dirent* entry = readdir(folder)) {
      int fd;
      if (absl::SimpleAtoi(entry->d_name, &fd)) numbers.push_back(fd);
    }
    closedir(folder);
    if (!numbers.empty()) return numbers;
  }
  constexpr rlim_t kEnough = 1 << 16;
  rlimit limit = {kEnough, kEnough};
  getrlimit(RLIMIT_NOFILE, &limit);
  numbers.resize(std::min(limit.rlim_cur, kEnough));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

}  // namespace

void CloseOtherDescriptors(const Inherited& inherited,
                           absl::Span<const std::string> paths) {
  const std::vector<int> known = Known(inherited, paths);
  if (CloseRanges(known)) return;
  for (const int fd : OpenDescriptors()) {
    if (!std::binary_search(known.begin(), known.end(), fd)) close(fd);
  }
}

void DetachStandardInputAndOutput() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
    // Without /dev/null, the descriptors stay unchanged.
    if (!IsNull(fd)) OpenNull(fd).IgnoreError();
  }
}

Inherited TakeInherited(const ActivationOptions& options) {
  absl::Status status = FillStandardDescriptors();
  // A superserver may have made standard error the client's socket, even if
  // standard input isn't served.
  bool standard_error_is_peer = false;
  if (S_ISSOCK(ModeOf(STDIN_FILENO))) {
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
      if (!IsSameFile(STDIN_FILENO, fd)) continue;
      status.Update(OpenNull(fd));
      if (fd == STDERR_FILENO) standard_error_is_peer = true;
    }
  }
  Inherited inherited = TakeAny(options);
  inherited.standard_error_is_peer |= standard_error_is_peer;
  status.Update(inherited.status);
  inherited.status = status;
  return inherited;
}

}  // namespace nbdinetd
