// TLS, as the rest of the house sees it: what is wanted, what was loaded, and a
// Stream that is encrypted. OpenSSL stays behind these interfaces, and out of
// a process that doesn't ask for it.
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
  std::string psk_file;      // instead of certificates, unless empty
  bool verify_peer = false;  // by certificate; with PSK every peer is
  // Globs of which one has to match the peer's identity, unless there are none.
  std::vector<std::string> allow;
};

// A Stream over another. Until Handshake() has succeeded nothing may be read or
// written.
class TlsStream : public Stream {
 public:
  // Goes on with the handshake: 0 once it has succeeded and the peer is
  // allowed, -EAGAIN when poll() should be asked first, any other value when
  // it failed; failure() says why.
  virtual int Handshake() = 0;

  // After the handshake: whom the peer has proved to be, by its certificate's
  // subject as in RFC 2253 or its PSK identity. Empty when it wasn't asked.
  virtual const std::string& identity() const = 0;
  // "TLSv1.3, TLS_AES_128_GCM_SHA256, ..." for the log.
  virtual std::string description() const = 0;
};

// The keys and certificates of a server, loaded; everything that TLS needs from
// the file system has been opened.
class Tls {
 public:
  virtual ~Tls() = default;

  // `settings` is not off. FailedPrecondition names the file that is missing
  // or wrong; InvalidArgument when there is no TLS in this program.
  static absl::StatusOr<std::unique_ptr<Tls>> Load(const TlsSettings& settings);

  // A clause on what was loaded, for a person: "X.509 certificates from ...".
  virtual std::string description() const = 0;
  // A sentence on what is unsafe about the files, for the log; mostly empty.
  virtual std::string warning() const = 0;

  // Wraps the stream of a client that sends its first TLS record next. This
  // must outlive the result.
  virtual std::unique_ptr<TlsStream> Wrap(
      std::unique_ptr<Stream> plain) const = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_H_
