// The addresses of ListenStream= (systemd.socket(5)), as far as two exports
// must not have the same one.
#ifndef NBDINETD_GENERATOR_LISTEN_ADDRESS_H_
#define NBDINETD_GENERATOR_LISTEN_ADDRESS_H_

#include "absl/strings/string_view.h"

namespace nbdinetd {

// Whether two sockets can't be bound to these addresses at the same time: they
// are equal, or one of them is every address of the other's port. An address
// that isn't understood collides with an equal text only.
bool Collide(absl::string_view a, absl::string_view b);

// Whether the address is a socket in the file system, which has a mode.
bool IsSocketPath(absl::string_view address);

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_LISTEN_ADDRESS_H_
