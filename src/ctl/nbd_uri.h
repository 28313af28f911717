// An NBD URI: which server, and which of its exports (doc/uri.md of the
// NetworkBlockDevice project, RFC 3986).
#ifndef NBDINETD_CTL_NBD_URI_H_
#define NBDINETD_CTL_NBD_URI_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "stream/tls.h"

namespace nbdinetd::ctl {

struct NbdUri {
  // nbds: without encryption, the connection must fail.
  std::optional<TlsClientSettings> tls;
  std::string host;  // of TCP: a name or an address, without brackets
  std::string port;  // of TCP: a number
  // Of a Unix socket, instead of the two; a path, or NUL and the name of an
  // abstract one.
  std::string socket;
  std::string export_name;
};

// InvalidArgument has a sentence for the caller. The parameters
// tls-certificates and tls-psk-file are those of libnbd. Without a user, a
// pre-shared key is that of the user who runs the process. Beyond the standard,
// a host in brackets may also be a name or an IPv4 address: a script then
// needn't know what it puts there.
absl::StatusOr<NbdUri> ParseNbdUri(absl::string_view text);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_NBD_URI_H_
