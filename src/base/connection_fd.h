// Owns the descriptor of a client's connection, and ends that connection.
//
// The superserver may hold a duplicate of the socket: systemd does as long as
// the service's unit exists. The client then doesn't notice a close(2). A
// socket is therefore shut down (shutdown(2)) before it is closed. A pipe has
// no such call and is only closed. Threads: one at a time; move it to hand it
// over.
#ifndef NBDINETD_BASE_CONNECTION_FD_H_
#define NBDINETD_BASE_CONNECTION_FD_H_

#include <utility>

#include "base/unique_fd.h"

namespace nbdinetd {

class ConnectionFd {
 public:
  ConnectionFd() = default;
  explicit ConnectionFd(UniqueFd fd) : fd_(std::move(fd)) {}
  ConnectionFd(ConnectionFd&& other) = default;
  ConnectionFd& operator=(ConnectionFd&& other) noexcept;
  ~ConnectionFd() { End(); }

  // The descriptor, borrowed; -1 when there is none.
  int get() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }

  // Shuts down both directions and closes the descriptor. Unread bytes from the
  // client are lost, and bytes that are on their way to it may be. It is meant
  // for connections on which nothing was sent; SocketStream ends others.
  void End();

  // Gives up ownership without a shutdown. The caller then ends the connection,
  // or only closes the descriptor where another process serves it.
  UniqueFd Release() { return std::move(fd_); }

  // True when nothing can be sent: an earlier process has shut the connection
  // down, or the client has disconnected. False for a client that has shut down
  // only its own sending direction, since it still reads, and for a pipe.
  bool IsShutDown() const;

 private:
  UniqueFd fd_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_CONNECTION_FD_H_
