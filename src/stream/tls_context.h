// OpenSSL's context of one side of TLS, and what it takes from files.
//
// After an error, the context can't be used. Threads: the main thread only.
#ifndef NBDINETD_STREAM_TLS_CONTEXT_H_
#define NBDINETD_STREAM_TLS_CONTEXT_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "stream/libssl.h"
#include "stream/tls.h"
#include "stream/tls_stream.h"

namespace nbdinetd {

// Only forward secrecy and authenticated encryption: no CBC. Keys are exchanged
// by elliptic curves. Finite fields cost a server much more than a client
// ("DHEat"), and a client of TLS 1.2 can't check their groups. For PSK, OpenSSL
// and GnuTLS then have one cipher in common.
inline constexpr char kCiphersOfTls12[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE+AESGCM:ECDHE+CHACHA20:!PSK:!aNULL";
inline constexpr char kPskCiphersOfTls12[] = "ECDHE-PSK-CHACHA20-POLY1305";

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
  // This side's certificate, and those of its chain. With `exists`, sets it to
  // whether the file is there, and needs none.
  absl::Status UseCertificates(const std::string& path, bool* exists = nullptr);
  // The key of that certificate.
  absl::Status UseKey(const std::string& path);
  absl::Status TrustAuthority(const std::string& path, bool name_it_to_clients);
  // Sets `*exists` if there is a list.
  absl::Status UseRevocationList(const std::string& path, bool* exists);
  // Ciphers of TLS 1.2, as in ciphers(1); `path` is for the error.
  absl::Status UseCiphers(const char* ciphers, const std::string& path);

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

// A Tls of either side: a context into which Load() of the derived class has
// loaded what `description_` says.
class LoadedTls : public Tls {
 public:
  explicit LoadedTls(std::unique_ptr<TlsContext> context)
      : context_(std::move(context)) {}

  std::string description() const override { return description_; }
  std::string warning() const override { return context_->warning(); }
  std::unique_ptr<TlsStream> Wrap(
      std::unique_ptr<Stream> plain) const override {
    return std::make_unique<OpenSslStream>(context_->endpoint(),
                                           std::move(plain));
  }

 protected:
  std::unique_ptr<TlsContext> context_;
  std::string description_;
};

template <typename Side, typename Settings>
absl::StatusOr<std::unique_ptr<Tls>> LoadTls(TlsRole role,
                                             const Settings& settings) {
  absl::StatusOr<std::unique_ptr<TlsContext>> context =
      TlsContext::Create(role);
  if (!context.ok()) return context.status();
  auto tls = std::make_unique<Side>(*std::move(context));
  if (absl::Status status = tls->Load(settings); !status.ok()) return status;
  return tls;
}

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_CONTEXT_H_
