// Who the peer of an OpenSslStream is: pre-shared keys, names, and
// certificates.

#include <arpa/inet.h>
#include <fnmatch.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "stream/libssl.h"
#include "stream/tls_stream.h"

namespace nbdinetd {
namespace {

// The size of the random key that replaces the key of an unknown identity.
constexpr size_t kRandomKeyBytes = 32;

// RFC 2253 has two ways to escape a character: "\\," and "\\2C". After all
// escapes are changed to the second, each comma or plus sign separates
// attributes. A glob therefore can't match a separator inside a value, which
// the client may have chosen.
std::string WithHexEscapes(absl::string_view name) {
  std::string escaped;
  for (size_t i = 0; i < name.size(); ++i) {
    escaped += name[i];
    if (name[i] == '\\' && i + 1 < name.size() &&
        absl::StrContains(",+\"\\<>;=# ", name[i + 1])) {
      absl::StrAppendFormat(&escaped, "%02X",
                            static_cast<unsigned char>(name[++i]));
    }
  }
  return escaped;
}

std::string InWords(const LibSsl& lib, const X509_NAME* name) {
  // RFC 2253 escapes what could break a line. UTF-8 stays unescaped.
  constexpr unsigned long kFlags = XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB;
  BIO* text = lib.BIO_new(lib.BIO_s_mem());
  if (text == nullptr) return "";
  std::string words;
  if (lib.X509_NAME_print_ex(text, name, 0, kFlags) >= 0) {
    char* data = nullptr;
    const long size = lib.BIO_ctrl(text, BIO_CTRL_INFO, 0, &data);
    if (size > 0) words.assign(data, static_cast<size_t>(size));
  }
  lib.BIO_free(text);
  return words;
}

}  // namespace

unsigned OpenSslStream::FindKey(SSL* ssl, const char* identity,
                                unsigned char* key, unsigned max_key_bytes) {
  const LibSsl& lib = LibSsl::Loaded();
  auto& self = *static_cast<OpenSslStream*>(lib.SSL_get_ex_data(ssl, kSelf));
  self.psk_identity_ = identity == nullptr ? "" : identity;
  const auto found = self.endpoint_.keys.find(self.psk_identity_);
  self.psk_known_ = found != self.endpoint_.keys.end();
  if (self.psk_known_) {
    const std::string& known = found->second;
    if (known.size() > max_key_bytes) return 0;
    std::memcpy(key, known.data(), known.size());
    return static_cast<unsigned>(known.size());
  }
  // An unknown identity gets a random key. Its failure looks like that of a
  // wrong key, so that a client can't find out which identities exist.
  const size_t size = std::min<size_t>(kRandomKeyBytes, max_key_bytes);
  return lib.RAND_bytes(key, static_cast<int>(size)) == 1
             ? static_cast<unsigned>(size)
             : 0;
}

unsigned OpenSslStream::GiveKey(SSL* ssl, const char*, char* identity,
                                unsigned max_identity_bytes, unsigned char* key,
                                unsigned max_key_bytes) {
  auto& self = *static_cast<OpenSslStream*>(
      LibSsl::Loaded().SSL_get_ex_data(ssl, kSelf));
  if (self.endpoint_.keys.empty()) return 0;
  const auto& [mine, secret] = *self.endpoint_.keys.begin();
  if (mine.size() > max_identity_bytes || secret.size() > max_key_bytes) {
    return 0;
  }
  // OpenSSL's buffer has a byte more, which is 0.
  std::memcpy(identity, mine.data(), mine.size());
  std::memcpy(key, secret.data(), secret.size());
  self.psk_identity_ = mine;
  self.psk_known_ = true;
  return static_cast<unsigned>(secret.size());
}

bool OpenSslStream::SetServer() {
  if (endpoint_.hostname.empty()) return true;
  const char* host = endpoint_.hostname.c_str();
  unsigned char address[sizeof(in6_addr)];
  const bool is_address = inet_pton(AF_INET, host, address) == 1 ||
                          inet_pton(AF_INET6, host, address) == 1;
  // The server may choose its certificate by the name, and not by an address
  // (RFC 6066, section 3).
  if (!is_address &&
      lib_.SSL_ctrl(ssl_, SSL_CTRL_SET_TLSEXT_HOSTNAME,
                    TLSEXT_NAMETYPE_host_name, const_cast<char*>(host)) != 1) {
    return false;
  }
  if (!endpoint_.verifies_server) return true;
  X509_VERIFY_PARAM* expected = lib_.SSL_get0_param(ssl_);
  // "n*.example.com" isn't nbd.example.com's (RFC 6125, section 6.4.3).
  lib_.X509_VERIFY_PARAM_set_hostflags(expected,
                                       X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return is_address ? lib_.X509_VERIFY_PARAM_set1_ip_asc(expected, host) == 1
                    : lib_.X509_VERIFY_PARAM_set1_host(expected, host, 0) == 1;
}

bool OpenSslStream::HasProof() const {
  return !endpoint_.verifies_server ||
         lib_.SSL_get0_peer_certificate(ssl_) != nullptr;
}

void OpenSslStream::SetIdentity() {
  if (!psk_identity_.empty()) {
    identity_ = psk_identity_;
    return;
  }
  X509* certificate = lib_.SSL_get0_peer_certificate(ssl_);
  if (certificate == nullptr) return;
  identity_ = InWords(lib_, lib_.X509_get_subject_name(certificate));
  issuer_ = InWords(lib_, lib_.X509_get_issuer_name(certificate));
}

bool OpenSslStream::IsAllowed() const {
  // A certificate without a subject, or with one that can't be printed, is
  // never allowed.
  if (!endpoint_.allow.empty() && identity_.empty()) return false;
  const std::string identity =
      psk_identity_.empty() ? WithHexEscapes(identity_) : identity_;
  const auto matches = [&](const std::string& pattern) {
    // FNM_NOESCAPE: distinguished names contain literal backslashes.
    return fnmatch((psk_identity_.empty() ? WithHexEscapes(pattern) : pattern)
                       .c_str(),
                   identity.c_str(), FNM_NOESCAPE) == 0;
  };
  return endpoint_.allow.empty() ||
         std::any_of(endpoint_.allow.begin(), endpoint_.allow.end(), matches);
}

}  // namespace nbdinetd
