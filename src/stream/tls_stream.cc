#include "stream/tls_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

// The longest plaintext of a record (RFC 8446, section 5.1), and the longest
// encrypted record with its header (RFC 5246, section 6.2.3).
constexpr size_t kRecordBytes = 16384;
constexpr size_t kMaxRecordBytes = kRecordBytes + 2048 + 5;

// The message KeyUpdate, and the offset of its request_update (RFC 8446,
// section 4.6.3).
constexpr unsigned char kKeyUpdate = 24;
constexpr size_t kKeyUpdateRequestAt = 4;

}  // namespace

BIO_METHOD* OpenSslStream::MakeBioMethod(const LibSsl& lib) {
  BIO_METHOD* method = lib.BIO_meth_new(
      lib.BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nbdinetd stream");
  if (method == nullptr) return nullptr;
  lib.BIO_meth_set_read_ex(method, &ReadBio);
  lib.BIO_meth_set_write_ex(method, &WriteBio);
  lib.BIO_meth_set_ctrl(method, &ControlBio);
  return method;
}

OpenSslStream::OpenSslStream(const Endpoint& endpoint,
                             std::unique_ptr<Stream> below)
    : endpoint_(endpoint),
      lib_(LibSsl::Loaded()),
      below_(std::move(below)),
      ssl_(lib_.SSL_new(endpoint.context)) {
  if (ssl_ == nullptr) return;
  lib_.SSL_set_ex_data(ssl_, kSelf, this);
  if (endpoint_.role == TlsRole::kServer) {
    lib_.SSL_set_accept_state(ssl_);
    kernel_tried_ = TryKernel();
  } else {
    lib_.SSL_set_connect_state(ssl_);
    if (!SetServer()) {
      lib_.SSL_free(std::exchange(ssl_, nullptr));
      return;
    }
  }
  if (kernel_tried_) return;
  ForgetKernel();
  BIO* bio = MakeBio();
  lib_.SSL_set_bio(ssl_, bio, bio);
}

OpenSslStream::~OpenSslStream() {
  if (established_ && !broken_) {
    lib_.ERR_clear_error();
    receives_left_ = kTlsReceivesInARow;
    if (lib_.SSL_shutdown(ssl_) >= 0) {
      Flush();
      // Reads the peer's close_notify if it has arrived: a socket that is
      // closed with unread bytes sends a reset.
      lib_.SSL_shutdown(ssl_);
    }
  }
  lib_.SSL_free(ssl_);
}

BIO* OpenSslStream::MakeBio() {
  BIO* bio = lib_.BIO_new(endpoint_.bio_method);
  if (bio == nullptr) return nullptr;
  lib_.BIO_set_data(bio, this);
  lib_.BIO_set_init(bio, 1);
  return bio;
}

int OpenSslStream::ReadBio(BIO* bio, char* data, size_t size, size_t* done) {
  const LibSsl& lib = LibSsl::Loaded();
  auto& self = *static_cast<OpenSslStream*>(lib.BIO_get_data(bio));
  lib.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
  ssize_t n = -EAGAIN;
  if (self.receives_left_ > 0) {
    n = self.below_->Read({data, size});
    // A short read has taken all there was; poll() reports later bytes.
    self.receives_left_ =
        n == static_cast<ssize_t>(size) ? self.receives_left_ - 1 : 0;
  }
  if (n > 0) {
    *done = static_cast<size_t>(n);
    return 1;
  }
  if (n == -EAGAIN) {
    lib.BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
  } else if (n == 0) {
    self.end_seen_ = true;
  } else {
    self.below_error_ = static_cast<int>(-n);
  }
  return 0;
}

int OpenSslStream::WriteBio(BIO* bio, const char* data, size_t size,
                            size_t* done) {
  const LibSsl& lib = LibSsl::Loaded();
  auto& self = *static_cast<OpenSslStream*>(lib.BIO_get_data(bio));
  lib.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
  const size_t part = std::min(size, kTlsOutputBytes - self.output_.size());
  if (part == 0) {
    lib.BIO_set_flags(bio, BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY);
    return 0;
  }
  self.output_.append(data, part);
  *done = part;
  return 1;
}

long OpenSslStream::ControlBio(BIO* bio, int command, long, void*) {
  switch (command) {
    case BIO_CTRL_FLUSH:
      return 1;
    case BIO_CTRL_EOF:
      return static_cast<OpenSslStream*>(LibSsl::Loaded().BIO_get_data(bio))
          ->end_seen_;
    default:
      return 0;
  }
}

absl::string_view OpenSslStream::PeerName() const {
  return endpoint_.role == TlsRole::kServer ? "client" : "server";
}

// The kernel never decrypts. It returns several records by one call, of which
// OpenSSL 3.0 makes one record with a length of 16 bits, so that a call into
// our large buffer breaks the stream. Nor does it then send the alert of a
// broken record, or tell a connection that ends inside a record from others.
// Our BIO, from which OpenSSL reads, refuses its key.
bool OpenSslStream::TryKernel() {
  const int fd = below_->output_fd();
  if (below_->input_fd() != fd ||
      setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0) {
    return false;
  }
  // OpenSSL passes the key for what it sends to the kernel, if it writes to its
  // own socket BIO, which needs a non-blocking socket.
  BIO* writer = lib_.BIO_new_socket(fd, BIO_NOCLOSE);
  if (writer == nullptr) return false;
  below_->SetNonBlocking(true);
  lib_.SSL_set_bio(ssl_, MakeBio(), writer);
  return true;
}

// Stops OpenSSL from setting keys in the kernel. Otherwise it would try that
// with each KeyUpdate, and when the kernel or our BIO refuses the key, OpenSSL
// 3.5 loses the bytes that it received after the message. In its source,
// ssl_set_new_record_layer() passes the buffer of the first attempt, instead of
// the old layer's, to the second attempt. During the handshake it hasn't read
// ahead.
void OpenSslStream::ForgetKernel() {
  lib_.SSL_clear_options(ssl_, SSL_OP_ENABLE_KTLS);
}

// Returns to our own BIO unless the kernel encrypts.
void OpenSslStream::LeaveKernel() {
  ForgetKernel();
  kernel_sends_ = lib_.BIO_ctrl(lib_.SSL_get_wbio(ssl_), BIO_CTRL_GET_KTLS_SEND,
                                0, nullptr) > 0;
  if (kernel_sends_) {
    lib_.SSL_set_msg_callback(ssl_, &WatchMessages);
    return;
  }
  lib_.SSL_set0_wbio(ssl_, MakeBio());
  below_->SetNonBlocking(false);
}

void OpenSslStream::WatchMessages(int is_write, int, int content_type,
                                  const void* data, size_t size, SSL* ssl,
                                  void*) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  if (is_write == 0 && content_type == SSL3_RT_HANDSHAKE &&
      size > kKeyUpdateRequestAt && bytes[0] == kKeyUpdate &&
      bytes[kKeyUpdateRequestAt] == 1) {
    static_cast<OpenSslStream*>(LibSsl::Loaded().SSL_get_ex_data(ssl, kSelf))
        ->new_keys_wanted_ = true;
  }
}

int OpenSslStream::Flush() {
  while (sent_ < output_.size()) {
    const iovec rest = {output_.data() + sent_, output_.size() - sent_};
    const ssize_t n = below_->Write(absl::MakeConstSpan(&rest, 1));
    if (n == -EAGAIN) return -EAGAIN;
    if (n < 0) {
      broken_ = true;
      output_.clear();
      sent_ = 0;
      return static_cast<int>(n);
    }
    sent_ += static_cast<size_t>(n);
  }
  output_.clear();
  sent_ = 0;
  return 0;
}

int OpenSslStream::Handshake() {
  if (ssl_ == nullptr) {
    failure_ = "out of memory";
    return -ENOMEM;
  }
  lib_.ERR_clear_error();
  receives_left_ = kTlsReceivesInARow;
  const int done = lib_.SSL_do_handshake(ssl_);
  if (done != 1) {
    const int error = lib_.SSL_get_error(ssl_, done);
    const int flushed = Flush();  // our next messages, or the alert
    wants_output_ = error == SSL_ERROR_WANT_WRITE;
    if ((error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) &&
        (flushed == 0 || flushed == -EAGAIN)) {
      return -EAGAIN;
    }
    SetHandshakeFailure();
    return -EPROTO;
  }
  wants_output_ = false;
  if (kernel_tried_) LeaveKernel();
  Flush();
  established_ = true;
  // Bytes may have arrived after the handshake's last record.
  has_input_ = true;
  SetIdentity();
  if (endpoint_.role == TlsRole::kClient && !HasProof()) {
    failure_ = "the TLS handshake failed: the server shows no certificate";
    return -EACCES;
  }
  if (IsAllowed()) return 0;
  failure_ = absl::StrCat(
      "--tls-allow doesn't allow ",
      psk_identity_.empty() ? "the certificate " : "the PSK identity ",
      Quoted(identity_));
  return -EACCES;
}

std::string OpenSslStream::OpenSslReason() const {
  const char* reason = lib_.ERR_reason_error_string(lib_.ERR_peek_error());
  return reason == nullptr ? "OpenSSL gives no reason" : reason;
}

// The most informative reason comes first.
void OpenSslStream::SetHandshakeFailure() {
  const long verified = lib_.SSL_get_verify_result(ssl_);
  failure_ = "the TLS handshake failed: ";
  const bool is_refused =
      ERR_GET_REASON(lib_.ERR_peek_error()) == SSL_R_CERTIFICATE_VERIFY_FAILED;
  if (is_refused && endpoint_.role == TlsRole::kClient &&
      !endpoint_.keys.empty()) {
    absl::StrAppend(&failure_,
                    "the server shows a certificate instead of the key");
  } else if (is_refused && verified != X509_V_OK) {
    absl::StrAppend(&failure_, "the ", PeerName(),
                    "'s certificate is refused: ",
                    lib_.X509_verify_cert_error_string(verified));
  } else if (below_error_ != 0) {
    absl::StrAppend(&failure_, ErrnoText(below_error_));
  } else if (end_seen_) {
    absl::StrAppend(&failure_, "the ", PeerName(), " left");
  } else {
    absl::StrAppend(&failure_, OpenSslReason());
  }
  if (!psk_identity_.empty()) {
    absl::StrAppend(&failure_,
                    psk_known_ ? " (PSK identity " : " (unknown PSK identity ",
                    Quoted(psk_identity_), ")");
  }
}

std::string OpenSslStream::description() const {
  return absl::StrCat(lib_.SSL_get_version(ssl_), ", ",
                      absl::NullSafeStringView(lib_.SSL_CIPHER_get_name(
                          lib_.SSL_get_current_cipher(ssl_))),
                      kernel_sends_ ? ", sent by the kernel" : "");
}

ssize_t OpenSslStream::ResultOf(int result) {
  const int error = lib_.SSL_get_error(ssl_, result);
  wants_output_ = error == SSL_ERROR_WANT_WRITE;
  if (error == SSL_ERROR_WANT_READ || wants_output_) return -EAGAIN;
  if (error == SSL_ERROR_SYSCALL && below_error_ == 0 && !end_seen_) {
    below_error_ = errno != 0 ? errno : ECONNRESET;
  }
  if (below_error_ != 0) {
    broken_ = true;
    return -below_error_;
  }
  if (error == SSL_ERROR_ZERO_RETURN || end_seen_) {
    // The end of the connection without close_notify is accepted: each NBD
    // message contains its own length.
    if (!end_seen_ || lib_.SSL_has_pending(ssl_) == 0) return 0;
    failure_ = absl::StrCat(PeerName(), " vanished inside a TLS record");
  } else {
    const bool is_alert =
        ERR_GET_REASON(lib_.ERR_peek_error()) >= SSL_AD_REASON_OFFSET;
    failure_ = absl::StrCat(
        PeerName(),
        is_alert ? " ended TLS: " : " broke TLS: ", OpenSslReason());
    Flush();  // the alert
  }
  broken_ = true;
  return -EPROTO;
}

ssize_t OpenSslStream::Read(absl::Span<char> buffer) {
  if (read_end_.has_value()) return *read_end_;
  // Nothing is read from a peer that requests answers and doesn't read them.
  if (Flush() == -EAGAIN) return -EAGAIN;
  lib_.ERR_clear_error();
  receives_left_ = kTlsReceivesInARow;
  wants_output_ = false;
  size_t total = 0;
  while (total < buffer.size()) {
    size_t n = 0;
    const int result = lib_.SSL_read_ex(ssl_, buffer.data() + total,
                                        buffer.size() - total, &n);
    total += n;
    if (result == 1) continue;
    const ssize_t why = ResultOf(result);
    if (why != -EAGAIN) read_end_ = why;
    // OpenSSL may hold input that poll() doesn't report, after answers for
    // which there was no room.
    if (!wants_output_ || output_.empty() || Flush() != 0) break;
  }
  if (new_keys_wanted_) {
    failure_ = "client wants new keys, which the kernel's TLS can't change";
    broken_ = true;
    read_end_ = -EPROTO;
  }
  // Sends the answers to messages that OpenSSL has handled by itself.
  Flush();
  // A full buffer means that there may be more.
  has_input_ = total == buffer.size();
  if (total > 0) return static_cast<ssize_t>(total);
  return read_end_.value_or(-EAGAIN);
}

size_t OpenSslStream::Encrypt(absl::Span<const iovec> pieces) {
  size_t total = 0;
  size_t offset = 0;  // in pieces[0]
  while (!pieces.empty() &&
         output_.size() + kMaxRecordBytes <= kTlsOutputBytes) {
    if (offset == pieces[0].iov_len) {
      pieces.remove_prefix(1);
      offset = 0;
      continue;
    }
    const char* data = static_cast<const char*>(pieces[0].iov_base) + offset;
    size_t size = std::min(pieces[0].iov_len - offset, kRecordBytes);
    if (size < kRecordBytes && pieces.size() > 1) {
      // A small piece and the bytes after it share a record.
      size = Gather(pieces, offset);
      data = record_.get();
    }
    size_t n = 0;
    if (lib_.SSL_write_ex(ssl_, data, size, &n) != 1) return 0;
    total += n;
    while (n > 0) {
      const size_t part = std::min(n, pieces[0].iov_len - offset);
      n -= part;
      offset += part;
      if (offset < pieces[0].iov_len) break;
      pieces.remove_prefix(1);
      offset = 0;
    }
  }
  return total;
}

// Copies up to kRecordBytes of `pieces`, from `offset` bytes into the first, to
// record_. Returns their number.
size_t OpenSslStream::Gather(absl::Span<const iovec> pieces, size_t offset) {
  if (record_ == nullptr) {
    record_ = std::make_unique_for_overwrite<char[]>(kRecordBytes);
  }
  size_t size = 0;
  for (const iovec& piece : pieces) {
    const size_t part = std::min(piece.iov_len - offset, kRecordBytes - size);
    std::memcpy(record_.get() + size,
                static_cast<const char*>(piece.iov_base) + offset, part);
    size += part;
    offset = 0;
  }
  return size;
}

ssize_t OpenSslStream::Write(absl::Span<const iovec> pieces, bool more) {
  if (kernel_sends_) return below_->Write(pieces, more);
  if (broken_) return -EPIPE;
  if (owed_ == 0) {
    // output_ may hold small messages of OpenSSL, and never many.
    if (output_.size() + kMaxRecordBytes > kTlsOutputBytes) {
      if (const int flushed = Flush()) return flushed;
    }
    lib_.ERR_clear_error();
    owed_ = Encrypt(pieces);
    if (owed_ == 0) {
      broken_ = true;
      return -EPROTO;
    }
  }
  // Bytes count as written only when the stream below has accepted them all.
  // Until then, the caller repeats the call with the same bytes, which are in
  // output_ already.
  if (const int flushed = Flush()) return flushed;
  return static_cast<ssize_t>(std::exchange(owed_, 0));
}

void OpenSslStream::Abort() {
  broken_ = true;
  below_->Abort();
}

}  // namespace nbdinetd
