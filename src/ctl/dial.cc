#include "ctl/dial.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/poll.h"
#include "base/steady_clock.h"

namespace nbdinetd::ctl {
namespace {

struct Address {
  sockaddr_storage bytes = {};
  socklen_t length = 0;
};

// What getaddrinfo(3) has found; nullopt while it hasn't returned.
struct Resolution {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<int> error;  // 0 or EAI_*
  int system_error = 0;      // of EAI_SYSTEM
  std::vector<Address> addresses;
};

void Resolve(const std::string& host, const std::string& port,
             Resolution& resolution) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  const int system_error = errno;
  std::vector<Address> addresses;
  for (const addrinfo* info = found;
       info != nullptr && addresses.size() < kMaxProbedAddresses;
       info = info->ai_next) {
    Address& address = addresses.emplace_back();
    address.length = info->ai_addrlen;
    std::memcpy(&address.bytes, info->ai_addr, info->ai_addrlen);
  }
  if (found != nullptr) freeaddrinfo(found);
  const std::lock_guard<std::mutex> lock(resolution.mutex);
  resolution.error = error;
  resolution.system_error = system_error;
  resolution.addresses = std::move(addresses);
  resolution.done.notify_one();
}

// getaddrinfo(3) has no time limit of the caller's.
absl::StatusOr<std::vector<Address>> AddressesOf(const NbdUri& uri,
                                                 absl::Time deadline) {
  auto resolution = std::make_shared<Resolution>();
  std::thread([host = uri.host, port = uri.port, resolution] {
    Resolve(host, port, *resolution);
  }).detach();
  std::unique_lock<std::mutex> lock(resolution->mutex);
  const auto is_done = [&] { return resolution->error.has_value(); };
  if (deadline == absl::InfiniteFuture()) {
    resolution->done.wait(lock, is_done);
  } else {
    resolution->done.wait_for(
        lock, absl::ToChronoNanoseconds(deadline - SteadyNow()), is_done);
  }
  if (!is_done()) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the name ", Quoted(uri.host), " could not be resolved in time"));
  }
  if (*resolution->error != 0) {
    return absl::NotFoundError(absl::StrCat(
        "failed to resolve ", Quoted(uri.host), ": ",
        *resolution->error == EAI_SYSTEM ? ErrnoText(resolution->system_error)
                                         : gai_strerror(*resolution->error)));
  }
  return resolution->addresses;
}

Address AddressOfSocket(const std::string& path) {
  Address address;
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  std::memcpy(&address.bytes, &name, sizeof(name));
  // The name of an abstract socket has no end but this length.
  address.length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() +
                             (path[0] == '\0' ? 0 : 1));
  return address;
}

// 0 or an errno value.
int Connect(const UniqueFd& socket, const Address& address,
            absl::Time deadline) {
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.bytes),
              address.length) == 0) {
    return 0;
  }
  // A Unix socket whose queue is full says EAGAIN, and can't be waited for.
  if (errno != EINPROGRESS) return errno;
  pollfd entry = {socket.get(), POLLOUT, 0};
  if (PollUntil(absl::MakeSpan(&entry, 1), deadline) == 0) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) {
    return errno;
  }
  return error;
}

std::string NameOf(const NbdUri& uri) {
  return uri.socket.empty() ? absl::StrCat(uri.host, " port ", uri.port)
                            : absl::StrCat("the socket ", Quoted(uri.socket));
}

}  // namespace

absl::StatusOr<UniqueFd> Dial(const NbdUri& uri, absl::Time deadline) {
  std::vector<Address> addresses;
  if (uri.socket.empty()) {
    absl::StatusOr<std::vector<Address>> found = AddressesOf(uri, deadline);
    if (!found.ok()) return found.status();
    addresses = *std::move(found);
  } else {
    addresses.push_back(AddressOfSocket(uri.socket));
  }
  int error = EADDRNOTAVAIL;
  for (size_t i = 0; i < addresses.size(); ++i) {
    UniqueFd connection(socket(addresses[i].bytes.ss_family,
                               SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const absl::Time now = SteadyNow();
    const absl::Time until =
        deadline == absl::InfiniteFuture()
            ? deadline
            : now +
                  (deadline - now) / static_cast<int64_t>(addresses.size() - i);
    error =
        connection.valid() ? Connect(connection, addresses[i], until) : errno;
    if (error == 0) return connection;
  }
  return ErrnoStatus(error, absl::StrCat("failed to connect to ", NameOf(uri)));
}

}  // namespace nbdinetd::ctl
