// Owns the descriptor of a client's connection, and ends that connection.
//
// Whoever accepted the connection may keep a duplicate of its socket: systemd
// does as long as the service's unit exists. close(2) alone tells the client
// nothing then. So a socket is shut down before it is closed, for whatever
// reason the process gives it up. There is no such call for a pipe, which is
// only closed. Threads: none; move it to hand it over.
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

  // Ends the connection in both directions. What the client has sent and nobody
  // has read is lost, and what it was sent may be: for connections on which
  // nothing has been said (see SocketStream for others).
  void End();

  // Leaves the connection to the result, whose owner ends it; or, where the
  // result is only closed, to whoever holds a duplicate.
  UniqueFd Release() { return std::move(fd_); }

  // True when nothing can be sent: a process before this one has ended the
  // connection, or the client is gone. A client that has sent all it has to
  // say, and shut down its own direction, still reads. False for a pipe.
  bool IsShutDown() const;

 private:
  UniqueFd fd_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_CONNECTION_FD_H_
