#include "base/message_socket.h"

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "base/poll.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// How often a process that ends looks whether its messages have been received:
// less often each time.
constexpr absl::Duration kMinStep = absl::Microseconds(200);
constexpr absl::Duration kMaxStep = absl::Milliseconds(20);

// Returns the length of the address, or 0 for an invalid name.
socklen_t MakeAddress(absl::string_view name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  if (name.size() < 2 || (name[0] != '/' && name[0] != '@') ||
      name.size() >= sizeof(address->sun_path)) {
    return 0;
  }
  std::memcpy(address->sun_path, name.data(), name.size());
  size_t length = offsetof(sockaddr_un, sun_path) + name.size();
  if (name[0] == '@') {
    // An abstract name begins with a zero byte and isn't terminated.
    address->sun_path[0] = '\0';
  } else {
    ++length;
  }
  return static_cast<socklen_t>(length);
}

// The errors of a daemon that has exited: a new one may listen at the same
// name.
bool IsDisconnected(int error_number) {
  switch (error_number) {
    case ECONNREFUSED:
    case ECONNRESET:
    case ENOTCONN:
    case EPIPE:
      return true;
    default:
      return false;
  }
}

}  // namespace

MessageSocket::MessageSocket(std::string name, Kind kind)
    : name_(std::move(name)), kind_(kind), socket_(Connect()) {}

UniqueFd MessageSocket::Connect() {
  sockaddr_un address;
  const socklen_t length = MakeAddress(name_, &address);
  if (length == 0) return UniqueFd();
  UniqueFd fd;
  const auto connect_as = [&](int type) {
    // Non-blocking, since even connect() blocks on a stream socket whose daemon
    // doesn't accept.
    fd.Reset(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return fd.valid() &&
           connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                   length) == 0;
  };
  bool is_stream = false;
  if (!connect_as(SOCK_DGRAM)) {
    is_stream = errno == EPROTOTYPE && kind_ == Kind::kDatagramOrStream;
    if (!is_stream || !connect_as(SOCK_STREAM)) return UniqueFd();
  }
  is_stream_ = is_stream;
  return fd;
}

void MessageSocket::AwaitReceived(absl::Time deadline) {
  if (!has_sent_ || is_stream_ || !socket_.valid()) return;
  has_sent_ = false;
  // A message counts as unread until the daemon has copied it. When it has
  // copied this one, which is empty and which it ignores, it has handled those
  // before it.
  bool marked = false;
  absl::Duration step = kMinStep;
  do {
    const int error = marked ? 0 : Deliver("", Wait::kNo);
    marked = error == 0;
    if (!marked && error != EAGAIN) return;
    int unread = 0;
    if (ioctl(socket_.get(), TIOCOUTQ, &unread) < 0) return;
    if (marked && unread == 0) return;
    // poll(2) has no event for this.
    PollUntil({}, std::min(deadline, SteadyNow() + step));
    step = std::min(2 * step, kMaxStep);
  } while (SteadyNow() < deadline);
}

void MessageSocket::Renew() {
  UniqueFd fd = Connect();
  if (!fd.valid()) return;
  socket_ = std::move(fd);
  has_sent_ = false;
}

bool MessageSocket::Send(absl::string_view message, Wait wait) {
  int error = socket_.valid() ? Deliver(message, wait) : ENOTCONN;
  if (IsDisconnected(error)) {
    socket_ = Connect();
    if (socket_.valid()) error = Deliver(message, wait);
  }
  if (wait == Wait::kYes) lacks_room_ = error == EAGAIN;
  if (error == 0) has_sent_ = true;
  return error == 0;
}

int MessageSocket::Deliver(absl::string_view message, Wait wait) {
  const std::string text =
      absl::StrCat(message, absl::string_view("", is_stream_ ? 1 : 0));
  for (;;) {
    const ssize_t n = send(socket_.get(), text.data(), text.size(),
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
      if (!is_stream_ || static_cast<size_t>(n) == text.size()) return 0;
      // The daemon would take the next message for the rest of this one.
      socket_.Reset();
      return EMSGSIZE;
    }
    const int error = errno;
    if (error == EINTR) continue;
    if (error != EAGAIN || wait == Wait::kNo || !WaitForRoom()) return error;
  }
}

bool MessageSocket::WaitForRoom() {
  if (lacks_room_) return false;
  const absl::Time now = SteadyNow();
  if (now >= next_patience_) {
    patience_ = kMessagePatience;
    next_patience_ = now + kMessagePatienceInterval;
  }
  if (patience_ <= absl::ZeroDuration()) return false;
  pollfd room = {socket_.get(), POLLOUT, 0};
  PollUntil(absl::MakeSpan(&room, 1), now + patience_);
  patience_ -= SteadyNow() - now;
  return true;
}

}  // namespace nbdinetd
