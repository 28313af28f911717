#include "activation.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

// What a descriptor is, as far as it matters to us.
enum class Kind {
  kConnection,  // a stream socket that isn't listening
  kListener,
  kPipe,
  kOther,
};

struct Identity {
  Kind kind;
  const char* description;
};

int SocketOption(int fd, int option) {
  int value = -1;
  socklen_t length = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

Identity Identify(int fd) {
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
      return {Kind::kOther, "a regular file"};
    case S_IFBLK:
      return {Kind::kOther, "a block device"};
    case S_IFCHR:
      return {Kind::kOther, isatty(fd) ? "a terminal" : "a character device"};
    case S_IFDIR:
      return {Kind::kOther, "a directory"};
    default:
      return {Kind::kOther, "of an unknown kind"};
  }
}

bool IsSameFile(int a, int b) {
  struct stat sa, sb;
  return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
         sa.st_ino == sb.st_ino;
}

void OpenNull(int fd) {
  const int null = open("/dev/null", O_RDWR);
  if (null < 0 || null == fd) return;
  dup2(null, fd);
  if (null > STDERR_FILENO) close(null);
}

// A descriptor that is opened later must not become 0, 1 or 2.
void FillStandardDescriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) OpenNull(fd);
  }
}

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

// systemd, xinetd and others tell the peer in the environment; it is all there
// is when the socket has no name any more, or was never one.
std::string PeerFromEnvironment() {
  std::string host = Environment("REMOTE_ADDR");
  if (host.empty()) host = Environment("REMOTE_HOST");
  if (host.empty()) return "";
  // What the environment says may have come from anywhere.
  host = Quoted(host);
  host = host.substr(1, host.size() - 2);
  const std::string port = Environment("REMOTE_PORT");
  if (port.empty()) return host;
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
}

std::string UnixPeer(int fd) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return "unix";
  }
  return absl::StrCat("unix:pid=", peer.pid, ",uid=", peer.uid,
                      ",gid=", peer.gid);
}

std::string IpPeer(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, &address, sizeof(in));
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(in.sin_port));
  }
  sockaddr_in6 in6;
  std::memcpy(&in6, &address, sizeof(in6));
  if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
    inet_ntop(AF_INET, &in6.sin6_addr.s6_addr[12], text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(in6.sin6_port));
  }
  inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(in6.sin6_port));
}

std::string PeerName(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    switch (address.ss_family) {
      case AF_UNIX:
        return UnixPeer(fd);
      case AF_INET:
      case AF_INET6:
        return IpPeer(address);
      case AF_VSOCK: {
        sockaddr_vm vm;
        std::memcpy(&vm, &address, sizeof(vm));
        return absl::StrCat("vsock:", vm.svm_cid, ":", vm.svm_port);
      }
    }
  }
  const std::string peer = PeerFromEnvironment();
  return peer.empty() ? "unknown peer" : peer;
}

// A copy above the standard descriptors; `fd` itself becomes /dev/null.
UniqueFd MoveAway(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (copy.valid()) OpenNull(fd);
  return copy;
}

// Whatever of 0, 1 and 2 is one of `clients` becomes /dev/null; true when
// standard error was.
bool DetachStandardDescriptors(absl::Span<const int> clients) {
  bool standard_error_is_peer = false;
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    for (const int client : clients) {
      if (!IsSameFile(fd, client)) continue;
      OpenNull(fd);
      if (fd == STDERR_FILENO) standard_error_is_peer = true;
      break;
    }
  }
  return standard_error_is_peer;
}

absl::Status UsageError(int fd, absl::string_view is,
                        absl::string_view advice) {
  return absl::InvalidArgumentError(
      absl::StrCat("file descriptor ", fd, " is ", is, ": ", advice));
}

// Rule 1: the descriptors of the socket activation protocol.
Inherited TakeActivated(int count, bool single) {
  Inherited inherited;
  std::vector<UniqueFd> fds;
  std::vector<int> clients;
  for (int i = 0; i < count; ++i) {
    fds.emplace_back(SD_LISTEN_FDS_START + i);
    if (Identify(fds.back().get()).kind == Kind::kConnection) {
      clients.push_back(fds.back().get());
    }
  }
  inherited.standard_error_is_peer = DetachStandardDescriptors(clients);
  if (single) {
    inherited.status = absl::InvalidArgumentError(
        "--single is not allowed under socket activation");
    return inherited;
  }
  for (UniqueFd& fd : fds) {
    const Identity identity = Identify(fd.get());
    if (identity.kind == Kind::kListener) {
      inherited.status = UsageError(
          fd.get(), identity.description,
          "one process serves one connection; set Accept=yes in the .socket "
          "unit");
    } else if (identity.kind != Kind::kConnection) {
      inherited.status =
          UsageError(fd.get(), identity.description,
                     "socket activation must pass one connected stream socket");
    } else if (inherited.connection.has_value()) {
      inherited.status = UsageError(
          fd.get(), "a second connected socket",
          "one process serves one connection; set Accept=yes in the .socket "
          "unit");
    } else {
      const std::string peer = PeerName(fd.get());
      inherited.connection = Connection{std::move(fd), UniqueFd(), peer};
      continue;
    }
    return inherited;
  }
  return inherited;
}

// Rule 2: inetd and its like, or ssh.
Inherited TakeStandardInput(bool single) {
  Inherited inherited;
  const Identity input = Identify(STDIN_FILENO);
  const Identity output = Identify(STDOUT_FILENO);
  const bool is_socket = input.kind == Kind::kConnection;
  const bool are_pipes = single && input.kind == Kind::kPipe &&
                         output.kind == Kind::kPipe;
  if (input.kind == Kind::kListener) {
    inherited.status =
        UsageError(STDIN_FILENO, input.description,
                   "one process serves one connection; use 'nowait' in "
                   "inetd.conf, 'wait = no' for xinetd");
    return inherited;
  }
  if (!is_socket && !are_pipes) {
    if (!single) return inherited;
    const bool input_is_wrong = input.kind != Kind::kPipe;
    inherited.status = UsageError(
        input_is_wrong ? STDIN_FILENO : STDOUT_FILENO,
        input_is_wrong ? input.description : output.description,
        "--single needs a socket as standard input, or pipes as standard "
        "input and output");
    return inherited;
  }
  std::string peer =
      is_socket ? PeerName(STDIN_FILENO) : PeerFromEnvironment();
  if (peer.empty()) peer = "pipe";
  Connection connection{MoveAway(STDIN_FILENO),
                        are_pipes ? MoveAway(STDOUT_FILENO) : UniqueFd(),
                        std::move(peer)};
  if (!connection.input.valid() ||
      (are_pipes && !connection.output.valid())) {
    inherited.status =
        ErrnoStatus(errno, "failed to take over standard input and output");
    return inherited;
  }
  const int ends[] = {connection.input.get(), connection.output.get()};
  inherited.standard_error_is_peer = DetachStandardDescriptors(ends);
  inherited.connection = std::move(connection);
  return inherited;
}

}  // namespace

Inherited TakeInherited(bool single) {
  FillStandardDescriptors();
  // No descriptors are no activation; sd_listen_fds() calls that an error.
  const bool none = Environment("LISTEN_FDS") == "0";
  const int listed = sd_listen_fds(/*unset_environment=*/1);
  const int count = none ? 0 : listed;
  if (count < 0) {
    Inherited inherited;
    inherited.status = ErrnoStatus(
        -count, "the environment's LISTEN_FDS and LISTEN_PID are unusable",
        absl::StatusCode::kInvalidArgument);
    return inherited;
  }
  return count > 0 ? TakeActivated(count, single) : TakeStandardInput(single);
}

}  // namespace nbdinetd
