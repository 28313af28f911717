// Replaces tls.cc in a program that is built without OpenSSL.
#include "stream/tls.h"

namespace nbdinetd {

absl::StatusOr<std::unique_ptr<Tls>> Tls::Load(const TlsSettings&) {
  return absl::InvalidArgumentError(
      "this nbdinetd was built without OpenSSL and has no TLS; use "
      "--tls=off");
}

absl::StatusOr<std::unique_ptr<Tls>> Tls::LoadClient(const TlsClientSettings&) {
  return absl::InvalidArgumentError(
      "this nbdinetctl was built without OpenSSL and has no TLS");
}

}  // namespace nbdinetd
