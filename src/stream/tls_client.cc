// A client's keys and certificates.

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "stream/libssl.h"
#include "stream/tls.h"
#include "stream/tls_context.h"
#include "stream/tls_stream.h"

namespace nbdinetd {
namespace {

constexpr char kCaCertificate[] = "ca-cert.pem";
constexpr char kCertificate[] = "client-cert.pem";
constexpr char kKey[] = "client-key.pem";
constexpr char kRevocationList[] = "ca-crl.pem";

// False only where nothing is: what can't be looked at isn't done without.
bool MayExist(const std::string& path) {
  return access(path.c_str(), F_OK) == 0 ||
         (errno != ENOENT && errno != ENOTDIR);
}

// That of libnbd which has certificates; empty if none has.
std::string DefaultDirectory() {
  std::vector<std::string> directories;
  const std::string home(absl::NullSafeStringView(secure_getenv("HOME")));
  if (geteuid() == 0) {
    directories = {"/etc/pki/libnbd"};
  } else if (!home.empty()) {
    directories = {absl::StrCat(home, "/.pki/libnbd"),
                   absl::StrCat(home, "/.config/pki/libnbd")};
  }
  for (const std::string& directory : directories) {
    if (MayExist(absl::StrCat(directory, "/", kCaCertificate))) {
      return directory;
    }
  }
  return "";
}

class ClientTls : public LoadedTls {
 public:
  using LoadedTls::LoadedTls;
  absl::Status Load(const TlsClientSettings& settings);

 private:
  absl::Status LoadKey(const TlsClientSettings& settings);
  absl::Status LoadCertificates(const TlsClientSettings& settings);
  absl::Status TrustSystem();
};

absl::Status ClientTls::LoadKey(const TlsClientSettings& settings) {
  absl::Status status = context_->LoadKeys(settings.psk_file);
  if (!status.ok()) return status;
  PskMap& keys = context_->endpoint().keys;
  const auto mine = keys.find(settings.psk_identity);
  if (mine == keys.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(settings.psk_file), " has no key of ",
                     Quoted(settings.psk_identity)));
  }
  for (auto other = keys.begin(); other != keys.end();) {
    if (other == mine) {
      ++other;
      continue;
    }
    explicit_bzero(other->second.data(), other->second.size());
    other = keys.erase(other);
  }
  context_->lib().SSL_CTX_set_psk_client_callback(context_->get(),
                                                  &OpenSslStream::GiveKey);
  description_ =
      absl::StrCat("the pre-shared key of ", Quoted(settings.psk_identity),
                   " from ", Quoted(settings.psk_file));
  return context_->UseCiphers(kPskCiphersOfTls12, settings.psk_file);
}

absl::Status ClientTls::TrustSystem() {
  if (context_->lib().SSL_CTX_set_default_verify_paths(context_->get()) != 1) {
    return context_->OpenSslError("the system's certificates");
  }
  description_ = "the system's X.509 certificates";
  return absl::OkStatus();
}

absl::Status ClientTls::LoadCertificates(const TlsClientSettings& settings) {
  const std::string directory = settings.certificates.empty()
                                    ? DefaultDirectory()
                                    : settings.certificates;
  if (directory.empty()) return TrustSystem();
  const auto path = [&directory](const char* name) {
    return absl::StrCat(directory, "/", name);
  };
  description_ = absl::StrCat("X.509 certificates from ", Quoted(directory));
  absl::Status status =
      context_->TrustAuthority(path(kCaCertificate), /*name_it_to_clients=*/
                               false);
  // An authority that another one has certified is one, as for GnuTLS.
  const LibSsl& lib = context_->lib();
  lib.X509_STORE_set_flags(lib.SSL_CTX_get_cert_store(context_->get()),
                           X509_V_FLAG_PARTIAL_CHAIN);
  // A server may ask for none.
  bool has_certificate = false;
  bool has_revocations = false;
  if (status.ok()) {
    status = context_->UseCertificates(path(kCertificate), &has_certificate);
  }
  if (status.ok() && has_certificate) status = context_->UseKey(path(kKey));
  if (status.ok()) {
    status =
        context_->UseRevocationList(path(kRevocationList), &has_revocations);
  }
  return status;
}

absl::Status ClientTls::Load(const TlsClientSettings& settings) {
  const bool psk = !settings.psk_file.empty();
  absl::Status status = psk ? LoadKey(settings) : LoadCertificates(settings);
  if (status.ok() && !psk) {
    status = context_->UseCiphers(kCiphersOfTls12, "libssl");
  }
  if (!status.ok()) return status;
  const LibSsl& lib = context_->lib();
  // A server that shows a certificate instead of the key is refused: none is
  // trusted then.
  lib.SSL_CTX_set_verify(
      context_->get(),
      psk || settings.verify_peer ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  OpenSslStream::Endpoint& endpoint = context_->endpoint();
  endpoint.hostname = settings.hostname;
  endpoint.verifies_server = !psk && settings.verify_peer;
  // An error that is left over would be reported as the reason of a later one.
  lib.ERR_clear_error();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tls>> Tls::LoadClient(
    const TlsClientSettings& settings) {
  return LoadTls<ClientTls>(TlsRole::kClient, settings);
}

}  // namespace nbdinetd
