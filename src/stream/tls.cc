// Loads a server's keys and certificates with OpenSSL.
#include "stream/tls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/unique_fd.h"
#include "stream/libssl.h"
#include "stream/psk_file.h"
#include "stream/tls_stream.h"

namespace nbdinetd {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

constexpr char kCaCertificate[] = "ca-cert.pem";
constexpr char kCertificate[] = "server-cert.pem";
constexpr char kKey[] = "server-key.pem";
constexpr char kRevocationList[] = "ca-crl.pem";

// AES-128-GCM first: it is the fastest on a processor with AES instructions,
// and no other is known to be stronger in practice. A client without them
// prefers ChaCha20 and gets it (SSL_OP_PRIORITIZE_CHACHA).
constexpr char kCiphersOfTls13[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
    "TLS_CHACHA20_POLY1305_SHA256";
// Only forward secrecy and authenticated encryption: no CBC. Keys are exchanged
// by elliptic curves. Finite fields cost a server much more than a client
// ("DHEat"), and a client of TLS 1.2 can't check their groups. For PSK, OpenSSL
// and GnuTLS then have one cipher in common.
constexpr char kCiphersOfTls12[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE+AESGCM:ECDHE+CHACHA20:!PSK:!aNULL";
constexpr char kPskCiphersOfTls12[] = "ECDHE-PSK-CHACHA20-POLY1305";

// Text that its destructor overwrites with zeroes.
struct Secret {
  Secret() = default;
  Secret(Secret&& other) noexcept
      : text(std::move(other.text)), mode(other.mode) {}
  ~Secret() { explicit_bzero(text.data(), text.size()); }
  std::string text;
  mode_t mode = 0;  // of its file
};

// Warns about a file of keys that other users can access. Its group is ignored,
// since a group may exist to share it, as Debian's ssl-cert does.
std::string WarningOf(absl::string_view path, mode_t mode) {
  if ((mode & (S_IROTH | S_IWOTH)) == 0) return "";
  return absl::StrFormat(
      "the keys in %s are no secret: every user of this machine may %s the "
      "file "
      "(mode %04o); take that from others by chmod o-rwx",
      Quoted(path),
      (mode & S_IWOTH) == 0   ? "read"
      : (mode & S_IROTH) == 0 ? "write"
                              : "read and write",
      mode & 07777);
}

absl::Status WrongFile(absl::string_view path, absl::string_view reason) {
  return absl::FailedPreconditionError(
      absl::StrCat("failed to use ", Quoted(path), " for TLS: ", reason));
}

// Reads a whole file. If `found` isn't nullptr, a missing file is no error, and
// `*found` reports whether it exists.
absl::StatusOr<Secret> ReadFile(const std::string& path,
                                bool* found = nullptr) {
  const auto fail = [&path](absl::string_view what) {
    return ErrnoStatus(
        errno, absl::StrCat("failed to ", what, " ", Quoted(path), " for TLS"),
        absl::StatusCode::kFailedPrecondition);
  };
  // O_NONBLOCK: opening a FIFO would wait for a writer.
  const UniqueFd file(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (found != nullptr) {
    const int error = errno;
    struct stat st;
    // A dangling symbolic link doesn't count as a missing file.
    *found = file.valid() || error != ENOENT || lstat(path.c_str(), &st) == 0;
    errno = error;
  }
  Secret content;
  if (!file.valid()) {
    if (found != nullptr && !*found) return content;
    return fail("open");
  }
  struct stat st;
  if (fstat(file.get(), &st) != 0) return fail("get the status of");
  if (!S_ISREG(st.st_mode)) return WrongFile(path, "it isn't a regular file");
  if (static_cast<size_t>(st.st_size) > kMaxFileBytes) {
    return WrongFile(
        path, absl::StrCat("it has more than ", kMaxFileBytes, " bytes"));
  }
  content.mode = st.st_mode;
  // Allocated once, so that no copy stays behind in memory.
  content.text.resize(static_cast<size_t>(st.st_size));
  size_t done = 0;
  while (done < content.text.size()) {
    const ssize_t n = read(file.get(), content.text.data() + done,
                           content.text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("read");
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  content.text.resize(done);
  return content;
}

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

// Prevents OpenSSL from prompting for the passphrase of an encrypted key.
int NoPassphrase(char*, int, int, void*) { return -1; }

// Loads the files; owns OpenSSL's context.
class OpenSslTls : public Tls {
 public:
  explicit OpenSslTls(const LibSsl& lib) : lib_(lib) {}
  OpenSslTls(const OpenSslTls&) = delete;
  OpenSslTls& operator=(const OpenSslTls&) = delete;
  ~OpenSslTls() override {
    lib_.SSL_CTX_free(server_.context);
    lib_.BIO_meth_free(server_.bio_method);
    for (auto& [identity, key] : server_.keys) {
      explicit_bzero(key.data(), key.size());
    }
  }

  absl::Status Load(const TlsSettings& settings);
  std::string description() const override { return description_; }
  std::string warning() const override { return warning_; }
  std::unique_ptr<TlsStream> Wrap(
      std::unique_ptr<Stream> plain) const override {
    return std::make_unique<OpenSslStream>(server_, std::move(plain));
  }

 private:
  absl::Status MakeContext();
  absl::Status LoadKeys(const TlsSettings& settings);
  absl::Status LoadCertificates(const TlsSettings& settings);
  absl::Status UseCertificates(const std::string& path);
  absl::Status UseKey(const std::string& path);
  absl::Status TrustAuthority(const std::string& path, bool name_it_to_clients);
  // Sets `*exists` if there is a list.
  absl::Status UseRevocationList(const std::string& path, bool* exists);

  // OpenSSL's reason for the failure of the last call.
  absl::Status OpenSslError(absl::string_view path) const;
  // Calls `use` with each object of one kind in a PEM file. Returns their
  // number.
  template <typename Object, typename Reader, typename Use>
  absl::StatusOr<int> ForEach(const std::string& path, const Secret& content,
                              Reader reader, Use use) const;

  const LibSsl& lib_;
  OpenSslStream::Server server_;
  std::string description_;
  std::string warning_;
};

absl::Status OpenSslTls::OpenSslError(absl::string_view path) const {
  const char* reason = lib_.ERR_reason_error_string(lib_.ERR_peek_last_error());
  return WrongFile(path,
                   reason == nullptr ? "OpenSSL gives no reason" : reason);
}

absl::Status OpenSslTls::MakeContext() {
  SSL_CTX* context = lib_.SSL_CTX_new(lib_.TLS_server_method());
  server_.context = context;
  server_.bio_method = OpenSslStream::MakeBioMethod(lib_);
  if (context == nullptr || server_.bio_method == nullptr) {
    return absl::FailedPreconditionError("failed to set up OpenSSL");
  }
  // The system's configuration may set a higher minimum, not a lower one.
  if (lib_.SSL_CTX_ctrl(context, SSL_CTRL_GET_MIN_PROTO_VERSION, 0, nullptr) <
      TLS1_2_VERSION) {
    lib_.SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION,
                      nullptr);
  }
  lib_.SSL_CTX_set_options(
      context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                   SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
                   SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF |
                   SSL_OP_ENABLE_KTLS);
  // A process serves one connection, so no session is ever resumed.
  lib_.SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF,
                    nullptr);
  lib_.SSL_CTX_set_num_tickets(context, 0);
  lib_.SSL_CTX_ctrl(context, SSL_CTRL_MODE,
                    SSL_MODE_ENABLE_PARTIAL_WRITE |
                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                        SSL_MODE_NO_AUTO_CHAIN,
                    nullptr);
  lib_.SSL_CTX_ctrl(context, SSL_CTRL_SET_READ_AHEAD, 1, nullptr);
  lib_.SSL_CTX_set_default_read_buffer_len(context, kTlsInputBytes);
  lib_.SSL_CTX_ctrl(context, SSL_CTRL_SET_MAX_CERT_LIST, kMaxCertificateBytes,
                    nullptr);
  if (lib_.SSL_CTX_set_ciphersuites(context, kCiphersOfTls13) != 1) {
    return absl::FailedPreconditionError(
        "OpenSSL supports none of the required ciphers of TLS 1.3");
  }
  return absl::OkStatus();
}

absl::Status OpenSslTls::LoadKeys(const TlsSettings& settings) {
  absl::StatusOr<Secret> content = ReadFile(settings.psk_file);
  if (!content.ok()) return content.status();
  absl::StatusOr<PskMap> keys = ParsePskFile(content->text);
  if (!keys.ok()) return WrongFile(settings.psk_file, keys.status().message());
  server_.keys = *std::move(keys);
  warning_ = WarningOf(settings.psk_file, content->mode);
  lib_.SSL_CTX_set_psk_server_callback(server_.context,
                                       &OpenSslStream::FindKey);
  if (lib_.SSL_CTX_set_cipher_list(server_.context, kPskCiphersOfTls12) != 1) {
    return OpenSslError(settings.psk_file);
  }
  description_ = absl::StrCat("pre-shared keys of ", server_.keys.size(),
                              server_.keys.size() == 1 ? " user" : " users",
                              " from ", Quoted(settings.psk_file));
  return absl::OkStatus();
}

template <typename Object, typename Reader, typename Use>
absl::StatusOr<int> OpenSslTls::ForEach(const std::string& path,
                                        const Secret& content, Reader reader,
                                        Use use) const {
  BIO* bio = lib_.BIO_new_mem_buf(content.text.data(),
                                  static_cast<int>(content.text.size()));
  int count = 0;
  absl::Status status;
  lib_.ERR_clear_error();
  while (Object* object = reader(bio, nullptr, &NoPassphrase, nullptr)) {
    if (!use(object, count)) {
      status = OpenSslError(path);
      break;
    }
    ++count;
  }
  lib_.BIO_free(bio);
  if (!status.ok()) return status;
  // The end of the file is reported as a missing start line.
  if (ERR_GET_REASON(lib_.ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return OpenSslError(path);
  }
  if (count == 0) return WrongFile(path, "it contains nothing in PEM format");
  return count;
}

absl::Status OpenSslTls::UseCertificates(const std::string& path) {
  const absl::StatusOr<Secret> content = ReadFile(path);
  if (!content.ok()) return content.status();
  bool expired = false;
  // The server's certificate comes first, and then those of the chain.
  const absl::StatusOr<int> count = ForEach<X509>(
      path, *content, lib_.PEM_read_bio_X509,
      [&](X509* certificate, int index) {
        if (index == 0) {
          expired = lib_.X509_cmp_current_time(
                        lib_.X509_get0_notAfter(certificate)) < 0;
          const bool used =
              lib_.SSL_CTX_use_certificate(server_.context, certificate) == 1;
          lib_.X509_free(certificate);
          return used;
        }
        // OpenSSL takes ownership if it succeeds.
        if (lib_.SSL_CTX_ctrl(server_.context, SSL_CTRL_CHAIN_CERT, 0,
                              certificate) == 1) {
          return true;
        }
        lib_.X509_free(certificate);
        return false;
      });
  if (expired) absl::StrAppend(&description_, " (which have EXPIRED)");
  return count.status();
}

absl::Status OpenSslTls::UseKey(const std::string& path) {
  const absl::StatusOr<Secret> content = ReadFile(path);
  if (!content.ok()) return content.status();
  BIO* bio = lib_.BIO_new_mem_buf(content->text.data(),
                                  static_cast<int>(content->text.size()));
  lib_.ERR_clear_error();
  EVP_PKEY* key =
      lib_.PEM_read_bio_PrivateKey(bio, nullptr, &NoPassphrase, nullptr);
  lib_.BIO_free(bio);
  if (key == nullptr) {
    const int reason = ERR_GET_REASON(lib_.ERR_peek_last_error());
    if (reason == PEM_R_NO_START_LINE || reason == ERR_R_UNSUPPORTED) {
      return WrongFile(path, "it contains no private key in PEM format");
    }
    if (reason == PEM_R_BAD_PASSWORD_READ) {
      return WrongFile(path, "the key is encrypted with a passphrase");
    }
    return OpenSslError(path);
  }
  // Fails also when the key doesn't belong to the certificate.
  const bool used = lib_.SSL_CTX_use_PrivateKey(server_.context, key) == 1 &&
                    lib_.SSL_CTX_check_private_key(server_.context) == 1;
  lib_.EVP_PKEY_free(key);
  warning_ = WarningOf(path, content->mode);
  return used ? absl::OkStatus() : OpenSslError(path);
}

absl::Status OpenSslTls::TrustAuthority(const std::string& path,
                                        bool name_it_to_clients) {
  const absl::StatusOr<Secret> content = ReadFile(path);
  if (!content.ok()) return content.status();
  X509_STORE* store = lib_.SSL_CTX_get_cert_store(server_.context);
  return ForEach<X509>(path, *content, lib_.PEM_read_bio_X509,
                       [&](X509* certificate, int) {
                         const bool used =
                             lib_.X509_STORE_add_cert(store, certificate) ==
                                 1 &&
                             (!name_it_to_clients ||
                              lib_.SSL_CTX_add_client_CA(server_.context,
                                                         certificate) == 1);
                         lib_.X509_free(certificate);
                         return used;
                       })
      .status();
}

absl::Status OpenSslTls::UseRevocationList(const std::string& path,
                                           bool* exists) {
  const absl::StatusOr<Secret> content = ReadFile(path, exists);
  if (!content.ok() || !*exists) return content.status();
  X509_STORE* store = lib_.SSL_CTX_get_cert_store(server_.context);
  // With these flags, each certificate of a client's chain needs a current
  // revocation list of its issuer.
  lib_.X509_STORE_set_flags(store,
                            X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
  return ForEach<X509_CRL>(path, *content, lib_.PEM_read_bio_X509_CRL,
                           [&](X509_CRL* list, int) {
                             const bool used =
                                 lib_.X509_STORE_add_crl(store, list) == 1;
                             lib_.X509_CRL_free(list);
                             return used;
                           })
      .status();
}

absl::Status OpenSslTls::LoadCertificates(const TlsSettings& settings) {
  const absl::StatusOr<std::string> directory = FindDirectory(settings);
  if (!directory.ok()) return directory.status();
  const auto path = [&directory](const char* name) {
    return absl::StrCat(*directory, "/", name);
  };
  const bool verify = settings.verify_peer || !settings.allow.empty();
  bool has_revocations = false;
  description_ = absl::StrCat("X.509 certificates from ", Quoted(*directory));
  absl::Status status = TrustAuthority(path(kCaCertificate), verify);
  if (status.ok()) status = UseCertificates(path(kCertificate));
  if (status.ok()) status = UseKey(path(kKey));
  if (status.ok()) {
    status = UseRevocationList(path(kRevocationList), &has_revocations);
  }
  if (!status.ok()) return status;
  if (lib_.SSL_CTX_set_cipher_list(server_.context, kCiphersOfTls12) != 1) {
    return OpenSslError(path(kCertificate));
  }
  if (verify) {
    lib_.SSL_CTX_set_verify(server_.context,
                            SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                            nullptr);
  }
  absl::StrAppend(&description_, verify ? ", clients must have one, too"
                                        : ", clients need none");
  if (has_revocations) {
    absl::StrAppend(&description_, ", with a revocation list");
  }
  return absl::OkStatus();
}

absl::Status OpenSslTls::Load(const TlsSettings& settings) {
  absl::Status status = MakeContext();
  if (!status.ok()) return status;
  server_.allow = settings.allow;
  status = settings.psk_file.empty() ? LoadCertificates(settings)
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
  lib_.ERR_clear_error();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tls>> Tls::Load(const TlsSettings& settings) {
  const absl::StatusOr<const LibSsl*> lib = LibSsl::Get();
  if (!lib.ok()) return lib.status();
  auto tls = std::make_unique<OpenSslTls>(**lib);
  if (absl::Status status = tls->Load(settings); !status.ok()) return status;
  return tls;
}

}  // namespace nbdinetd
