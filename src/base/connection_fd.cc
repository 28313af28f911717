#include "base/connection_fd.h"

#include <sys/socket.h>

#include <cerrno>

namespace nbdinetd {

ConnectionFd& ConnectionFd::operator=(ConnectionFd&& other) noexcept {
  if (this != &other) {
    End();
    fd_ = std::move(other.fd_);
  }
  return *this;
}

void ConnectionFd::End() {
  if (!fd_.valid()) return;
  shutdown(fd_.get(), SHUT_RDWR);
  fd_.Reset();
}

bool ConnectionFd::IsShutDown() const {
  // On a stream socket this sends nothing, and fails where a write would fail.
  return send(fd_.get(), "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
         (errno == EPIPE || errno == ECONNRESET || errno == ETIMEDOUT);
}

}  // namespace nbdinetd
