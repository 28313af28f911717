// A Unix datagram socket to somebody who listens: the journal, the service
// manager.
//
// Both speak documented protocols whose other end never answers ("Native
// Journal Protocol", sd_notify(3)). The socket is opened once and kept, since a
// process that has shut itself in can't open another; libsystemd opens its own
// with the first message, or with each. Threads: one at a time.
#ifndef NBDINETD_BASE_DATAGRAM_SOCKET_H_
#define NBDINETD_BASE_DATAGRAM_SOCKET_H_

#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace nbdinetd {

// Connects to `name`: an absolute path, or an abstract name that begins with
// '@'. Not valid when nobody listens there.
UniqueFd ConnectDatagramSocket(absl::string_view name);

// Sends one datagram. A reader that takes nothing for a second, or is gone, or
// a datagram that is too long, makes it false: the message is lost.
bool SendDatagram(int socket, absl::string_view datagram);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_DATAGRAM_SOCKET_H_
