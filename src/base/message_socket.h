// A Unix socket to a daemon that receives messages and never answers: the
// journal, syslogd, the service manager.
//
// Their protocols are documented for programs that implement them ("Native
// Journal Protocol", RFC 3164 in the form that syslog(3) sends, sd_notify(3)).
// The constructor opens the socket and the object keeps it, since a process in
// the sandbox can't open another one. libsystemd opens its sockets at the first
// message, or for each message.
//
// Invariant: a daemon that doesn't read blocks the process for a limited time.
// All messages of a socket together wait at most kMessagePatience for buffer
// space in each kMessagePatienceInterval. After a message was dropped for lack
// of space, no message waits until the daemon has received one. Threads: one at
// a time.
#ifndef NBDINETD_BASE_MESSAGE_SOCKET_H_
#define NBDINETD_BASE_MESSAGE_SOCKET_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class MessageSocket {
 public:
  // The type of the daemon's socket.
  enum class Kind {
    kDatagram,
    // As syslog(3) does: a datagram socket; if the daemon's is a stream socket,
    // a stream socket, with a zero byte after each message.
    kDatagramOrStream,
  };

  // Not connected; valid() is false.
  MessageSocket() = default;
  // Connects to `name`: an absolute path, or an abstract name that begins with
  // '@'. If that fails, valid() is false, and each Send() tries again.
  explicit MessageSocket(std::string name, Kind kind = Kind::kDatagram);

  bool valid() const { return socket_.valid(); }
  // The descriptor, borrowed; -1 if not valid(). It is never replaced in a
  // process that can open no socket.
  int fd() const { return socket_.get(); }

  // Sends one message. Returns false, and drops the message, when the socket
  // has no space for it, when it is too long, or when no daemon listens any
  // more.
  bool Send(absl::string_view message) { return Send(message, Wait::kYes); }

  // The same, but never waits for space. For a message that a later one
  // replaces; whether later ones wait doesn't depend on it.
  bool SendIfRoom(absl::string_view message) {
    return Send(message, Wait::kNo);
  }

  // Waits until the daemon has handled all messages that were sent, assuming
  // that it handles one before it receives the next; at most until `deadline`,
  // a SteadyNow(). Before its process ends: journald reads what it adds to a
  // message, the unit for example, in /proc when it receives the message. Does
  // nothing for a stream socket.
  void AwaitReceived(absl::Time deadline);

  // For a forked process: opens a socket of its own to the current daemon. If
  // that fails, it keeps the socket that it shares with its parent.
  void Renew();

 private:
  enum class Wait { kNo, kYes };

  bool Send(absl::string_view message, Wait wait);
  // Returns a connected socket, or an invalid descriptor.
  UniqueFd Connect();
  // Returns 0 or an errno value.
  int Deliver(absl::string_view message, Wait wait);
  // Waits for space in the socket. False when no message may wait now.
  bool WaitForRoom();

  std::string name_;
  Kind kind_ = Kind::kDatagram;
  bool is_stream_ = false;
  UniqueFd socket_;
  bool has_sent_ = false;    // and the daemon may not have received it yet
  bool lacks_room_ = false;  // the last message was dropped for lack of space
  absl::Duration patience_ = absl::ZeroDuration();  // what is left
  absl::Time next_patience_ = absl::InfinitePast();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_MESSAGE_SOCKET_H_
