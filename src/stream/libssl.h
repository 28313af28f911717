// OpenSSL's libssl and libcrypto, loaded when TLS is requested.
//
// They take four megabytes and thousands of relocations, and a connection
// without TLS doesn't use them. Get() loads them, OpenSSL's configuration file
// and the providers that it names, so that no file has to be opened later.
#ifndef NBDINETD_STREAM_LIBSSL_H_
#define NBDINETD_STREAM_LIBSSL_H_

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "absl/status/statusor.h"

namespace nbdinetd {

// The functions that nbdinetd calls, as in the manual page of each name. Macros
// in the manual are calls of their _ctrl function here.
#define NBDINETD_LIBSSL_FUNCTIONS(F)     \
  F(BIO_clear_flags)                     \
  F(BIO_ctrl)                            \
  F(BIO_free)                            \
  F(BIO_get_data)                        \
  F(BIO_get_new_index)                   \
  F(BIO_meth_free)                       \
  F(BIO_meth_new)                        \
  F(BIO_meth_set_ctrl)                   \
  F(BIO_meth_set_read_ex)                \
  F(BIO_meth_set_write_ex)               \
  F(BIO_new)                             \
  F(BIO_new_mem_buf)                     \
  F(BIO_new_socket)                      \
  F(BIO_s_mem)                           \
  F(BIO_set_data)                        \
  F(BIO_set_flags)                       \
  F(BIO_set_init)                        \
  F(ERR_clear_error)                     \
  F(ERR_peek_error)                      \
  F(ERR_peek_last_error)                 \
  F(ERR_reason_error_string)             \
  F(EVP_PKEY_free)                       \
  F(OPENSSL_init_ssl)                    \
  F(PEM_read_bio_PrivateKey)             \
  F(PEM_read_bio_X509)                   \
  F(PEM_read_bio_X509_CRL)               \
  F(RAND_bytes)                          \
  F(SSL_CIPHER_get_name)                 \
  F(SSL_CTX_add_client_CA)               \
  F(SSL_CTX_check_private_key)           \
  F(SSL_CTX_ctrl)                        \
  F(SSL_CTX_free)                        \
  F(SSL_CTX_get_cert_store)              \
  F(SSL_CTX_new)                         \
  F(SSL_CTX_set_cipher_list)             \
  F(SSL_CTX_set_ciphersuites)            \
  F(SSL_CTX_set_default_read_buffer_len) \
  F(SSL_CTX_set_default_verify_paths)    \
  F(SSL_CTX_set_num_tickets)             \
  F(SSL_CTX_set_options)                 \
  F(SSL_CTX_set_psk_client_callback)     \
  F(SSL_CTX_set_psk_server_callback)     \
  F(SSL_CTX_set_verify)                  \
  F(SSL_CTX_use_PrivateKey)              \
  F(SSL_CTX_use_certificate)             \
  F(SSL_clear_options)                   \
  F(SSL_ctrl)                            \
  F(SSL_do_handshake)                    \
  F(SSL_free)                            \
  F(SSL_get0_param)                      \
  F(SSL_get0_peer_certificate)           \
  F(SSL_get_current_cipher)              \
  F(SSL_get_error)                       \
  F(SSL_get_ex_data)                     \
  F(SSL_get_verify_result)               \
  F(SSL_get_version)                     \
  F(SSL_get_wbio)                        \
  F(SSL_has_pending)                     \
  F(SSL_new)                             \
  F(SSL_read_ex)                         \
  F(SSL_set0_wbio)                       \
  F(SSL_set_accept_state)                \
  F(SSL_set_bio)                         \
  F(SSL_set_connect_state)               \
  F(SSL_set_ex_data)                     \
  F(SSL_set_msg_callback)                \
  F(SSL_shutdown)                        \
  F(SSL_write_ex)                        \
  F(TLS_client_method)                   \
  F(TLS_server_method)                   \
  F(X509_CRL_free)                       \
  F(X509_NAME_print_ex)                  \
  F(X509_STORE_add_cert)                 \
  F(X509_STORE_add_crl)                  \
  F(X509_STORE_set_flags)                \
  F(X509_VERIFY_PARAM_set1_host)         \
  F(X509_VERIFY_PARAM_set1_ip_asc)       \
  F(X509_VERIFY_PARAM_set_hostflags)     \
  F(X509_cmp_current_time)               \
  F(X509_free)                           \
  F(X509_get0_notAfter)                  \
  F(X509_get_issuer_name)                \
  F(X509_get_subject_name)               \
  F(X509_verify_cert_error_string)

struct LibSsl {
#define NBDINETD_DECLARE(name) decltype(&::name) name;
  NBDINETD_LIBSSL_FUNCTIONS(NBDINETD_DECLARE)
#undef NBDINETD_DECLARE

  // Loads and initializes OpenSSL on the first call. FailedPrecondition when
  // that fails. The result is never freed. Threads: the main thread only.
  static absl::StatusOr<const LibSsl*> Get();
  // The functions that Get() has loaded, for OpenSSL's callbacks.
  static const LibSsl& Loaded();
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_LIBSSL_H_
