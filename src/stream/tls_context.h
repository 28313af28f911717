// OpenSSL's context of one side of TLS, and what it takes from files.
//
// After an error, the context can't be used. Threads: the main thread only.
#ifndef NBDINETD_STREAM_TLS_CONTEXT_H_
#define NBDINETD_STREAM_TLS_CONTEXT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "stream/libssl.h"
#include "stream/tls_stream.h"

namespace nbdinetd {

class TlsContext {
 public:
  // Loads OpenSSL, and makes a context with the settings that both sides share.
  static absl::StatusOr<std::unique_ptr<TlsContext>> Create(TlsRole role);
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();

  const LibSsl& lib() const { return lib_; }
  SSL_CTX* get() const { return endpoint_.context; }
  OpenSslStream::Endpoint& endpoint() { return endpoint_; }
  const OpenSslStream::Endpoint& endpoint() const { return endpoint_; }

  // Each is FailedPrecondition for a missing or wrong file, which it names.

  // Reads pre-shared keys into the endpoint.
  absl::Status LoadKeys(const std::string& path);
  // This side's certificate, and those of its chain.
  absl::Status UseCertificates(const std::string& path);
  // The key of that certificate.
  absl::Status UseKey(const std::string& path);
  absl::Status TrustAuthority(const std::string& path, bool name_it_to_clients);
  // Sets `*exists` if there is a list.
  absl::Status UseRevocationList(const std::string& path, bool* exists);

  // A sentence about unsafe permissions of the files; usually empty.
  const std::string& warning() const { return warning_; }
  // Whether this side's certificate is too old.
  bool has_expired() const { return has_expired_; }

  // OpenSSL's reason for the failure of the last call, which was about this
  // file.
  absl::Status OpenSslError(absl::string_view path) const;

 private:
  explicit TlsContext(const LibSsl& lib) : lib_(lib) {}
  absl::Status Make(TlsRole role);

  const LibSsl& lib_;
  OpenSslStream::Endpoint endpoint_;
  std::string warning_;
  bool has_expired_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_CONTEXT_H_
