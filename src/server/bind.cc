#include "server/bind.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

constexpr int kBacklog = SOMAXCONN;

// O_NONBLOCK: accept() must not block after poll() if the connection has ended
// in between.
constexpr int kSocketFlags = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;

absl::Status BindError(int error_number, absl::string_view where) {
  const char* advice =
      error_number == EADDRINUSE
          ? "; 'ss -lnp' names the process that listens there"
      : error_number == EACCES
          ? "; a port below 1024, or the folder of a socket, needs permission"
      : error_number == EADDRNOTAVAIL ? "; 'ip addr' lists this machine's own"
      : error_number == EAFNOSUPPORT
          ? "; the kernel lacks this family, or its module isn't loaded"
          : "";
  return absl::AlreadyExistsError(absl::StrCat(
      "failed to listen on ", where, ": ", ErrnoText(error_number), advice));
}

// A socket bound to `address`, or an errno value.
struct BoundSocket {
  UniqueFd fd;
  int error = 0;
};

BoundSocket BindSocket(int family, const sockaddr* address, socklen_t length) {
  UniqueFd fd(socket(family, kSocketFlags, 0));
  if (!fd.valid()) return {UniqueFd(), errno};
  const int on = 1;
  if (family == AF_INET || family == AF_INET6) {
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  }
  if (family == AF_INET6) {
    // IPv4 addresses have a socket of their own.
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (bind(fd.get(), address, length) != 0) {
    return {UniqueFd(), errno};
  }
  return {std::move(fd), 0};
}

absl::StatusOr<BoundSockets> BindTcp(const ListenAddress& address,
                                     uint32_t port) {
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_family = address.family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string where = absl::StrCat(
      address.ip_address.empty() ? "TCP" : address.ip_address, " port ", port,
      address.family == AF_INET    ? " of IPv4"
      : address.family == AF_INET6 ? " of IPv6"
                                   : "");
  const int result = getaddrinfo(
      address.ip_address.empty() ? nullptr : address.ip_address.c_str(),
      absl::StrCat(port).c_str(), &hints, &found);
  if (result != 0) {
    return absl::AlreadyExistsError(absl::StrCat("failed to listen on ", where,
                                                 ": ", gai_strerror(result)));
  }
  const auto free_found = absl::MakeCleanup([found] { freeaddrinfo(found); });
  BoundSockets bound;
  bound.where = where;
  int first_error = 0;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    BoundSocket socket =
        BindSocket(info->ai_family, info->ai_addr, info->ai_addrlen);
    if (socket.error == 0) {
      bound.listeners.push_back(std::move(socket.fd));
    } else if (socket.error == EAFNOSUPPORT || socket.error == EADDRNOTAVAIL) {
      // The machine has no IPv6 or no IPv4.
      if (first_error == 0) first_error = socket.error;
    } else {
      return BindError(socket.error, where);
    }
  }
  if (bound.listeners.empty()) return BindError(first_error, where);
  return bound;
}

// Whether `path` is a socket that refuses connections.
bool IsStale(const sockaddr_un& address) {
  struct stat st;
  if (lstat(address.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
  const UniqueFd probe(socket(AF_UNIX, kSocketFlags, 0));
  return connect(probe.get(), reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)) != 0 &&
         errno == ECONNREFUSED;
}

std::string AbsolutePath(const std::string& path) {
  char folder[PATH_MAX];
  if (path[0] == '/' || getcwd(folder, sizeof(folder)) == nullptr) return path;
  return absl::StrCat(folder, "/", path);
}

// The right to replace or remove the socket at a path: a lock file beside the
// socket. It is locked by flock(2); the kernel unlocks it when the process
// ends. The destructor removes it.
class PathLock {
 public:
  PathLock() = default;
  PathLock(const PathLock&) = delete;
  PathLock& operator=(const PathLock&) = delete;
  // While it is locked, no other process removes it.
  ~PathLock() {
    if (fd_.valid()) unlink(path_.c_str());
  }

  // 0 or an errno value; EADDRINUSE when another process has the lock.
  int Take(const std::string& socket_path) {
    path_ = absl::StrCat(socket_path, kSuffix);
    for (;;) {
      UniqueFd fd(open(
          path_.c_str(),
          O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
          0600));
      if (!fd.valid()) return errno;
      if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK ? EADDRINUSE : errno;
      }
      struct stat ours, there;
      if (fstat(fd.get(), &ours) != 0) return errno;
      if (lstat(path_.c_str(), &there) != 0) {
        if (errno != ENOENT) return errno;
      } else if (ours.st_dev == there.st_dev && ours.st_ino == there.st_ino) {
        fd_ = std::move(fd);
        return 0;
      }
      // Its former owner removed the file between open() and flock().
    }
  }

 private:
  static constexpr char kSuffix[] = ".nbdinetd-lock";
  std::string path_;
  UniqueFd fd_;
};

// Binds and listens. 0 or an errno value.
int BindPath(BoundSockets& bound) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (bound.unix_path.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  std::memcpy(address.sun_path, bound.unix_path.c_str(),
              bound.unix_path.size() + 1);
  PathLock lock;
  if (const int error = lock.Take(bound.unix_path)) return error;
  if (IsStale(address)) unlink(address.sun_path);
  BoundSocket socket = BindSocket(
      AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  if (socket.error != 0) return socket.error;
  // Looked at first: once it listens, somebody may put another file in its
  // place.
  struct stat st;
  if (lstat(address.sun_path, &st) != 0 ||
      listen(socket.fd.get(), kBacklog) != 0) {
    const int error = errno;
    unlink(address.sun_path);
    return error;
  }
  bound.device = st.st_dev;
  bound.inode = st.st_ino;
  bound.listeners.push_back(std::move(socket.fd));
  return 0;
}

absl::StatusOr<BoundSockets> BindUnix(const std::string& path) {
  BoundSockets bound;
  if (path == "-") {
    char folder[] = "/tmp/nbdinetdXXXXXX";
    if (mkdtemp(folder) == nullptr) {
      return ErrnoStatus(errno,
                         "failed to make a private folder in /tmp for the "
                         "Unix socket",
                         absl::StatusCode::kAlreadyExists);
    }
    bound.private_folder = folder;
    bound.unix_path = absl::StrCat(folder, "/socket");
  } else {
    bound.unix_path = AbsolutePath(path);
  }
  bound.where = absl::StrCat("Unix socket ", Quoted(bound.unix_path));
  if (const int error = BindPath(bound)) {
    if (!bound.private_folder.empty()) rmdir(bound.private_folder.c_str());
    return BindError(error, bound.where);
  }
  return bound;
}

absl::StatusOr<BoundSockets> BindVsock(uint32_t port) {
  sockaddr_vm address = {};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  BoundSocket socket = BindSocket(
      AF_VSOCK, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  BoundSockets bound;
  bound.where = absl::StrCat("vsock port ", port);
  if (socket.error != 0) return BindError(socket.error, bound.where);
  bound.listeners.push_back(std::move(socket.fd));
  return bound;
}

std::string PercentEncoded(absl::string_view text, absl::string_view kept) {
  std::string encoded;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
        absl::StrContains(kept, c)) {
      encoded += c;
    } else {
      absl::StrAppendFormat(&encoded, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

}  // namespace

absl::Status BoundSockets::Listen() const {
  for (const UniqueFd& listener : listeners) {
    if (listen(listener.get(), kBacklog) != 0) {
      return BindError(errno, where);
    }
  }
  return absl::OkStatus();
}

void BoundSockets::GiveTo(uid_t uid, gid_t gid) const {
  const auto give = [&](const std::string& path, mode_t kind) {
    // The descriptor makes fstat() and fchownat() act on the same file: the
    // user may have the right to replace files in the folder.
    const UniqueFd fd(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st;
    if (!fd.valid() || fstat(fd.get(), &st) != 0 ||
        (st.st_mode & S_IFMT) != kind) {
      return;
    }
    [[maybe_unused]] const int ignored =
        fchownat(fd.get(), "", uid, gid, AT_EMPTY_PATH);
  };
  if (!unix_path.empty()) give(unix_path, S_IFSOCK);
  if (!private_folder.empty()) give(private_folder, S_IFDIR);
}

void BoundSockets::RemoveUnixSocket() const {
  if (unix_path.empty()) return;
  if (!unix_path.empty()) {
    // Also without the lock: its holder finds that this socket still listens.
    PathLock lock;
    lock.Take(unix_path);
    struct stat st;
    if (lstat(unix_path.c_str(), &st) == 0 && st.st_dev == device &&
        st.st_ino == inode) {
      unlink(unix_path.c_str());
    }
  }
  if (!private_folder.empty()) rmdir(private_folder.c_str());
}

absl::StatusOr<BoundSockets> Bind(const ListenAddress& address) {
  const uint32_t port = address.port == 0 ? kNbdPort : address.port;
  if (!address.unix_path.empty()) return BindUnix(address.unix_path);
  return address.vsock ? BindVsock(port) : BindTcp(address, port);
}

std::string UriOf(const ListenAddress& address, const std::string& unix_path,
                  const std::string& export_name, bool require_tls) {
  const absl::string_view scheme = require_tls ? "nbds" : "nbd";
  constexpr char kUnreserved[] = "-._~";
  const std::string name = PercentEncoded(export_name, kUnreserved);
  if (!unix_path.empty()) {
    return absl::StrCat(scheme, "+unix:///", name,
                        "?socket=", PercentEncoded(unix_path, "-._~/"));
  }
  const uint32_t port = address.port == 0 ? kNbdPort : address.port;
  if (address.vsock) {
    return absl::StrCat(scheme, "+vsock://", VMADDR_CID_LOCAL, ":", port, "/",
                        name);
  }
  std::string host =
      address.ip_address.empty() ? "localhost" : address.ip_address;
  if (absl::StrContains(host, ':')) host = absl::StrCat("[", host, "]");
  return absl::StrCat(scheme, "://", host, ":", port, "/", name);
}

}  // namespace nbdinetd
