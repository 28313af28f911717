#include "stream/tls_context.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/unique_fd.h"
#include "stream/psk_file.h"

namespace nbdinetd {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

// AES-128-GCM first: it is the fastest on a processor with AES instructions,
// and no other is known to be stronger in practice. A client without them
// prefers ChaCha20 and gets it (SSL_OP_PRIORITIZE_CHACHA).
constexpr char kCiphersOfTls13[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
    "TLS_CHACHA20_POLY1305_SHA256";

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

// Prevents OpenSSL from prompting for the passphrase of an encrypted key.
int NoPassphrase(char*, int, int, void*) { return -1; }

// Calls `use` with each object of one kind in a PEM file. Returns their number.
template <typename Object, typename Reader, typename Use>
absl::StatusOr<int> ForEach(const TlsContext& tls, const std::string& path,
                            const Secret& content, Reader reader, Use use) {
  const LibSsl& lib = tls.lib();
  BIO* bio = lib.BIO_new_mem_buf(content.text.data(),
                                 static_cast<int>(content.text.size()));
  int count = 0;
  absl::Status status;
  lib.ERR_clear_error();
  while (Object* object = reader(bio, nullptr, &NoPassphrase, nullptr)) {
    if (!use(object, count)) {
      status = tls.OpenSslError(path);
      break;
    }
    ++count;
  }
  lib.BIO_free(bio);
  if (!status.ok()) return status;
  // The end of the file is reported as a missing start line.
  if (ERR_GET_REASON(lib.ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return tls.OpenSslError(path);
  }
  if (count == 0) return WrongFile(path, "it contains nothing in PEM format");
  return count;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Create(TlsRole role) {
  const absl::StatusOr<const LibSsl*> lib = LibSsl::Get();
  if (!lib.ok()) return lib.status();
  std::unique_ptr<TlsContext> context(new TlsContext(**lib));
  if (absl::Status status = context->Make(role); !status.ok()) return status;
  return context;
}

TlsContext::~TlsContext() {
  lib_.SSL_CTX_free(endpoint_.context);
  lib_.BIO_meth_free(endpoint_.bio_method);
  for (auto& [identity, key] : endpoint_.keys) {
    explicit_bzero(key.data(), key.size());
  }
}

absl::Status TlsContext::OpenSslError(absl::string_view path) const {
  const char* reason = lib_.ERR_reason_error_string(lib_.ERR_peek_last_error());
  return WrongFile(path,
                   reason == nullptr ? "OpenSSL gives no reason" : reason);
}

absl::Status TlsContext::Make(TlsRole role) {
  SSL_CTX* context =
      lib_.SSL_CTX_new(role == TlsRole::kServer ? lib_.TLS_server_method()
                                                : lib_.TLS_client_method());
  endpoint_.role = role;
  endpoint_.context = context;
  endpoint_.bio_method = OpenSslStream::MakeBioMethod(lib_);
  if (context == nullptr || endpoint_.bio_method == nullptr) {
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

absl::Status TlsContext::LoadKeys(const std::string& path) {
  const absl::StatusOr<Secret> content = ReadFile(path);
  if (!content.ok()) return content.status();
  absl::StatusOr<PskMap> keys = ParsePskFile(content->text);
  if (!keys.ok()) return WrongFile(path, keys.status().message());
  endpoint_.keys = *std::move(keys);
  warning_ = WarningOf(path, content->mode);
  return absl::OkStatus();
}

absl::Status TlsContext::UseCiphers(const char* ciphers,
                                    const std::string& path) {
  return lib_.SSL_CTX_set_cipher_list(endpoint_.context, ciphers) == 1
             ? absl::OkStatus()
             : OpenSslError(path);
}

absl::Status TlsContext::UseCertificates(const std::string& path,
                                         bool* exists) {
  const absl::StatusOr<Secret> content = ReadFile(path, exists);
  if (!content.ok()) return content.status();
  if (exists != nullptr && !*exists) return absl::OkStatus();
  // This side's certificate comes first, and then those of the chain.
  const absl::StatusOr<int> count = ForEach<X509>(
      *this, path, *content, lib_.PEM_read_bio_X509,
      [&](X509* certificate, int index) {
        if (index == 0) {
          has_expired_ = lib_.X509_cmp_current_time(
                             lib_.X509_get0_notAfter(certificate)) < 0;
          const bool used =
              lib_.SSL_CTX_use_certificate(endpoint_.context, certificate) == 1;
          lib_.X509_free(certificate);
          return used;
        }
        // OpenSSL takes ownership if it succeeds.
        if (lib_.SSL_CTX_ctrl(endpoint_.context, SSL_CTRL_CHAIN_CERT, 0,
                              certificate) == 1) {
          return true;
        }
        lib_.X509_free(certificate);
        return false;
      });
  return count.status();
}

absl::Status TlsContext::UseKey(const std::string& path) {
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
  const bool used = lib_.SSL_CTX_use_PrivateKey(endpoint_.context, key) == 1 &&
                    lib_.SSL_CTX_check_private_key(endpoint_.context) == 1;
  lib_.EVP_PKEY_free(key);
  warning_ = WarningOf(path, content->mode);
  return used ? absl::OkStatus() : OpenSslError(path);
}

absl::Status TlsContext::TrustAuthority(const std::string& path,
                                        bool name_it_to_clients) {
  const absl::StatusOr<Secret> content = ReadFile(path);
  if (!content.ok()) return content.status();
  X509_STORE* store = lib_.SSL_CTX_get_cert_store(endpoint_.context);
  return ForEach<X509>(*this, path, *content, lib_.PEM_read_bio_X509,
                       [&](X509* certificate, int) {
                         const bool used =
                             lib_.X509_STORE_add_cert(store, certificate) ==
                                 1 &&
                             (!name_it_to_clients ||
                              lib_.SSL_CTX_add_client_CA(endpoint_.context,
                                                         certificate) == 1);
                         lib_.X509_free(certificate);
                         return used;
                       })
      .status();
}

absl::Status TlsContext::UseRevocationList(const std::string& path,
                                           bool* exists) {
  const absl::StatusOr<Secret> content = ReadFile(path, exists);
  if (!content.ok() || !*exists) return content.status();
  X509_STORE* store = lib_.SSL_CTX_get_cert_store(endpoint_.context);
  // With these flags, each certificate of the peer's chain needs a current
  // revocation list of its issuer.
  lib_.X509_STORE_set_flags(store,
                            X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
  return ForEach<X509_CRL>(*this, path, *content, lib_.PEM_read_bio_X509_CRL,
                           [&](X509_CRL* list, int) {
                             const bool used =
                                 lib_.X509_STORE_add_crl(store, list) == 1;
                             lib_.X509_CRL_free(list);
                             return used;
                           })
      .status();
}

}  // namespace nbdinetd
