// A server's keys and certificates.
#include "stream/tls.h"

#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/errors.h"
#include "stream/libssl.h"
#include "stream/tls_context.h"
#include "stream/tls_stream.h"

namespace nbdinetd {
namespace {

constexpr char kCaCertificate[] = "ca-cert.pem";
constexpr char kCertificate[] = "server-cert.pem";
constexpr char kKey[] = "server-key.pem";
constexpr char kRevocationList[] = "ca-crl.pem";

// systemd's credentials first, then nbdkit's directories in its order.
std::vector<std::string> DefaultDirectories() {
  const auto variable = [](const char* name) {
    return std::string(absl::NullSafeStringView(secure_getenv(name)));
  };
  std::vector<std::string> directories;
  if (std::string credentials = variable("CREDENTIALS_DIRECTORY");
      !credentials.empty()) {
    directories.push_back(std::move(credentials));
  }
  if (geteuid() == 0) {
    directories.push_back("/etc/pki/nbdkit");
  } else if (const std::string home = variable("HOME"); !home.empty()) {
    directories.push_back(absl::StrCat(home, "/.pki/nbdkit"));
    directories.push_back(absl::StrCat(home, "/.config/pki/nbdkit"));
  }
  return directories;
}

absl::StatusOr<std::string> FindDirectory(const TlsSettings& settings) {
  if (!settings.certificates.empty()) return settings.certificates;
  const std::vector<std::string> directories = DefaultDirectories();
  for (const std::string& directory : directories) {
    if (access(absl::StrCat(directory, "/", kCertificate).c_str(), F_OK) == 0) {
      return directory;
    }
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "TLS needs certificates or pre-shared keys, and there is no ",
      kCertificate, " in ", absl::StrJoin(directories, " or "),
      "; use --tls-certificates or --tls-psk"));
}

class ServerTls : public LoadedTls {
 public:
  using LoadedTls::LoadedTls;
  absl::Status Load(const TlsSettings& settings);

 private:
  absl::Status LoadKeys(const TlsSettings& settings);
  absl::Status LoadCertificates(const TlsSettings& settings);
};

absl::Status ServerTls::LoadKeys(const TlsSettings& settings) {
  absl::Status status = context_->LoadKeys(settings.psk_file);
  if (!status.ok()) return status;
  context_->lib().SSL_CTX_set_psk_server_callback(context_->get(),
                                                  &OpenSslStream::FindKey);
  status = context_->UseCiphers(kPskCiphersOfTls12, settings.psk_file);
  if (!status.ok()) return status;
  const size_t users = context_->endpoint().keys.size();
  description_ = absl::StrCat("pre-shared keys of ", users,
                              users == 1 ? " user" : " users", " from ",
                              Quoted(settings.psk_file));
  return absl::OkStatus();
}

absl::Status ServerTls::LoadCertificates(const TlsSettings& settings) {
  const absl::StatusOr<std::string> directory = FindDirectory(settings);
  if (!directory.ok()) return directory.status();
  const auto path = [&directory](const char* name) {
    return absl::StrCat(*directory, "/", name);
  };
  const bool verify = settings.verify_peer || !settings.allow.empty();
  bool has_revocations = false;
  description_ = absl::StrCat("X.509 certificates from ", Quoted(*directory));
  absl::Status status = context_->TrustAuthority(path(kCaCertificate), verify);
  if (status.ok()) status = context_->UseCertificates(path(kCertificate));
  if (status.ok()) status = context_->UseKey(path(kKey));
  if (status.ok()) {
    status =
        context_->UseRevocationList(path(kRevocationList), &has_revocations);
  }
  if (status.ok()) {
    status = context_->UseCiphers(kCiphersOfTls12, path(kCertificate));
  }
  if (!status.ok()) return status;
  if (context_->has_expired()) {
    absl::StrAppend(&description_, " (which have EXPIRED)");
  }
  if (verify) {
    context_->lib().SSL_CTX_set_verify(
        context_->get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
        nullptr);
  }
  absl::StrAppend(&description_, verify ? ", clients must have one, too"
                                        : ", clients need none");
  if (has_revocations) {
    absl::StrAppend(&description_, ", with a revocation list");
  }
  return absl::OkStatus();
}

absl::Status ServerTls::Load(const TlsSettings& settings) {
  context_->endpoint().allow = settings.allow;
  absl::Status status = settings.psk_file.empty() ? LoadCertificates(settings)
                                                  : LoadKeys(settings);
  if (!status.ok()) return status;
  if (!settings.allow.empty()) {
    absl::StrAppend(&description_, ", allowed: ",
                    absl::StrJoin(settings.allow, ", ",
                                  [](std::string* out, const std::string& p) {
                                    out->append(Quoted(p));
                                  }));
  }
  // An error that is left over would be reported as the reason of a later one.
  context_->lib().ERR_clear_error();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tls>> Tls::Load(const TlsSettings& settings) {
  return LoadTls<ServerTls>(TlsRole::kServer, settings);
}

}  // namespace nbdinetd
