// The argument PEER of `disconnect` and `--peer=`.
#ifndef NBDINETD_CTL_PEER_PATTERN_H_
#define NBDINETD_CTL_PEER_PATTERN_H_

#include "absl/strings/string_view.h"

namespace nbdinetd::ctl {

// Whether a connection's peer, or its TLS identity, is meant by `pattern`: the
// peer as it is shown ("192.0.2.7:40000", "unix:pid=12,uid=0,gid=0"); its
// address without the port ("192.0.2.7", "2001:db8::7", with or without
// brackets; "vsock:3"); a part of a Unix peer ("unix:uid=1000", "unix:pid=12",
// "unix:gid=5"); or the identity as it is shown.
bool IsPeerMeant(absl::string_view pattern, absl::string_view peer,
                 absl::string_view identity);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_PEER_PATTERN_H_
