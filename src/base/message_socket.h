// A Unix socket to a daemon that takes messages and never answers: the journal,
// syslogd, the service manager.
//
// Their protocols are documented for those who speak them by themselves
// ("Native Journal Protocol", RFC 3164 in the form that syslog(3) sends,
// sd_notify(3)). The socket is opened with the object and kept, since a process
// that has shut itself in can't open another; libsystemd opens its own with the
// first message, or with each.
//
// Invariant: a daemon that doesn't read holds up nobody for long. All messages
// of a socket together wait at most kMessagePatience for room in each
// kMessagePatienceInterval; once one was lost for want of room, none waits
// until the daemon has taken one. Threads: one at a time.
#ifndef NBDINETD_BASE_MESSAGE_SOCKET_H_
#define NBDINETD_BASE_MESSAGE_SOCKET_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class MessageSocket {
 public:
  // What the daemon listens on.
  enum class Kind {
    kDatagram,
    // As syslog(3) has it: a datagram socket, or, where the name is that of a
    // stream socket, that, with a zero byte behind each message.
    kDatagramOrStream,
  };

  // To nobody.
  MessageSocket() = default;
  // To `name`: an absolute path, or an abstract name that begins with '@'.
  // Where nobody listens, valid() is false, and each Send() tries to connect
  // again.
  explicit MessageSocket(std::string name, Kind kind = Kind::kDatagram);

  bool valid() const { return socket_.valid(); }

  // Sends one message, and says whether the daemon has got it. It hasn't when
  // there is no room for the message, when it is too long, or when the daemon
  // is gone and no other listens in its place. Otherwise it is lost.
  bool Send(absl::string_view message);

  // For a process forked off: a socket of its own, to the daemon that listens
  // now. Where none does, it goes on sharing its parent's.
  void Renew();

 private:
  // Not valid when nobody can be reached.
  UniqueFd Connect();
  // 0 or an errno.
  int Deliver(absl::string_view message);
  // False when no message may wait now.
  bool WaitForRoom();

  std::string name_;
  Kind kind_ = Kind::kDatagram;
  bool is_stream_ = false;
  UniqueFd socket_;
  bool lacks_room_ = false;  // the last message was lost for want of it
  absl::Duration patience_ = absl::ZeroDuration();  // what is left of it
  absl::Time next_patience_ = absl::InfinitePast();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_MESSAGE_SOCKET_H_
