// The interface of TLS for the other rooms: settings, loaded keys and
// certificates, and an encrypted Stream. Only src/stream/ uses OpenSSL, and
// only a process with TLS loads it.
#ifndef NBDINETD_STREAM_TLS_H_
#define NBDINETD_STREAM_TLS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "stream/stream.h"

namespace nbdinetd {

// The specification's NOTLS, SELECTIVETLS and FORCEDTLS modes ("TLS support").
enum class TlsMode { kOff, kOn, kRequire };

struct TlsSettings {
  TlsMode mode = TlsMode::kOff;
  std::string certificates;  // a directory; empty for the default ones
  std::string psk_file;      // used instead of certificates, unless empty
  bool verify_peer = false;  // by certificate; PSK always verifies it
  // Globs (fnmatch(3)), one of which must match the peer's identity. If empty,
  // every peer is allowed.
  std::vector<std::string> allow;
};

// A client's choices (doc/uri.md of the NetworkBlockDevice project, "NBD URI
// query parameters related to TLS").
struct TlsClientSettings {
  // The name or address that the server's certificate must have; empty for any
  // that an authority has certified.
  std::string hostname;
  bool verify_peer = true;   // by certificate; PSK always verifies it
  std::string certificates;  // a directory; empty for the default ones
  std::string psk_file;      // used instead of certificates, unless empty
  std::string psk_identity;  // one of that file
};

// Whether each client that is served has an identity that TLS has verified.
inline bool TlsIsCertain(const TlsSettings& settings) {
  return settings.mode == TlsMode::kRequire &&
         (settings.verify_peer || !settings.psk_file.empty());
}

// An encrypted Stream over another one. Nothing may be read or written before
// Handshake() has succeeded.
class TlsStream : public Stream {
 public:
  // Continues the handshake. Returns 0 after it has succeeded and the peer is
  // allowed, -EAGAIN when poll() must be called first, and another negated
  // errno after a failure, which failure() describes.
  virtual int Handshake() = 0;

  // After the handshake: the peer's verified identity, as its certificate's
  // subject (RFC 2253) or its PSK identity. Empty when no certificate was
  // requested.
  virtual const std::string& identity() const = 0;
  virtual bool identity_is_psk() const = 0;
  // The issuer of that certificate (RFC 2253); empty without one.
  virtual const std::string& issuer() const = 0;
  // For the log: "TLSv1.3, TLS_AES_128_GCM_SHA256, sent by the kernel". The end
  // is missing where OpenSSL encrypts.
  virtual std::string description() const = 0;
};

// The loaded keys and certificates of a server or a client. No file is opened
// later.
class Tls {
 public:
  virtual ~Tls() = default;

  // `settings.mode` isn't kOff. FailedPrecondition names a missing or wrong
  // file; InvalidArgument means that this program was built without TLS.
  static absl::StatusOr<std::unique_ptr<Tls>> Load(const TlsSettings& settings);
  // The same for a client.
  static absl::StatusOr<std::unique_ptr<Tls>> LoadClient(
      const TlsClientSettings& settings);

  // A clause that describes what was loaded, for a person: "X.509 certificates
  // from ...".
  virtual std::string description() const = 0;
  // A sentence about unsafe permissions of the files, for the log; usually
  // empty.
  virtual std::string warning() const = 0;

  // Wraps the stream of a peer whose next bytes are its first TLS record.
  // This object must outlive the result.
  virtual std::unique_ptr<TlsStream> Wrap(
      std::unique_ptr<Stream> plain) const = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_H_
