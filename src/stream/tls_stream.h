// A TlsStream that uses OpenSSL.
//
// Except for kernel TLS, OpenSSL doesn't use the descriptor: it reads from and
// writes to the stream below through our own BIO. The rules of that stream
// therefore hold (it never blocks, never raises SIGPIPE, may be a pair of
// pipes). Many records go out by one system call. OpenSSL never needs the same
// bytes again, because it gets a record only when there is room for the
// encrypted one. Where the kernel encrypts, writes go to the socket unchanged;
// OpenSSL always decrypts.
//
// Besides those of the stream below and of memory allocation, the handshake and
// later calls make these system calls: getrandom and getpid, for random
// numbers; on a TCP socket setsockopt(TCP_ULP); and with kernel TLS
// fcntl(F_GETFL, F_SETFL), setsockopt(SOL_TLS), write and sendmsg. No file is
// opened. If a call for kernel TLS fails, OpenSSL encrypts by itself.
//
// Invariant: output_ holds encrypted bytes that the stream below hasn't
// accepted; owed_ is the number of the caller's bytes in them. Threads: one.
#ifndef NBDINETD_STREAM_TLS_STREAM_H_
#define NBDINETD_STREAM_TLS_STREAM_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "stream/libssl.h"
#include "stream/psk_file.h"
#include "stream/tls.h"

namespace nbdinetd {

enum class TlsRole { kServer, kClient };

class OpenSslStream : public TlsStream {
 public:
  // One side's settings, which all its streams share; borrowed, and must
  // outlive the stream.
  struct Endpoint {
    TlsRole role = TlsRole::kServer;
    SSL_CTX* context = nullptr;
    BIO_METHOD* bio_method = nullptr;  // from MakeBioMethod()
    PskMap keys;                       // of a client: its own
    std::vector<std::string> allow;    // of a server
    // Of a client: the server's name or address, or empty; and whether its
    // certificate must be of that, or of any name if there is none.
    std::string hostname;
    bool verifies_server = false;
  };

  // Owned by the caller; nullptr when memory is exhausted.
  static BIO_METHOD* MakeBioMethod(const LibSsl& lib);
  // The callbacks of SSL_CTX_set_psk_server_callback() and
  // SSL_CTX_set_psk_client_callback().
  static unsigned FindKey(SSL* ssl, const char* identity, unsigned char* key,
                          unsigned max_key_bytes);
  static unsigned GiveKey(SSL* ssl, const char* hint, char* identity,
                          unsigned max_identity_bytes, unsigned char* key,
                          unsigned max_key_bytes);

  OpenSslStream(const Endpoint& endpoint, std::unique_ptr<Stream> below);
  // Sends close_notify.
  ~OpenSslStream() override;

  int Handshake() override;
  const std::string& identity() const override { return identity_; }
  bool identity_is_psk() const override { return !psk_identity_.empty(); }
  const std::string& issuer() const override { return issuer_; }
  std::string description() const override;

  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces, bool more = false) override;
  // Only where the kernel encrypts.
  bool sends_files() const override {
    return kernel_sends_ && below_->sends_files();
  }
  ssize_t SendFile(int file, uint64_t offset, size_t length) override {
    return below_->SendFile(file, offset, length);
  }
  bool has_input() const override {
    return has_input_ || read_end_.has_value();
  }
  bool has_output() const override {
    return !read_end_.has_value() &&
           ((!output_.empty() && owed_ == 0) || wants_output_);
  }
  std::optional<size_t> unread_bytes() const override {
    return below_->unread_bytes();
  }
  bool shows_room_late() const override { return below_->shows_room_late(); }
  std::optional<uint64_t> acknowledged_bytes() const override {
    return below_->acknowledged_bytes();
  }
  void Abort() override;
  std::string failure() const override { return failure_; }
  int input_fd() const override { return below_->input_fd(); }
  int output_fd() const override { return below_->output_fd(); }

 private:
  // The slot for application data that every SSL has.
  static constexpr int kSelf = 0;

  // The BIO's functions.
  static int ReadBio(BIO* bio, char* data, size_t size, size_t* done);
  static int WriteBio(BIO* bio, const char* data, size_t size, size_t* done);
  static long ControlBio(BIO* bio, int command, long number, void* pointer);
  BIO* MakeBio();

  // Tells a client's OpenSSL whom it wants. Returns false when memory is
  // exhausted.
  bool SetServer();
  absl::string_view PeerName() const;

  // Prepares kernel TLS. True if OpenSSL itself writes to the socket until
  // LeaveKernel().
  bool TryKernel();
  void LeaveKernel();
  void ForgetKernel();
  static void WatchMessages(int is_write, int version, int content_type,
                            const void* data, size_t size, SSL* ssl,
                            void* stream);

  // Sends what the stream below accepts of output_. Returns 0 or a negated
  // errno; after any but -EAGAIN, nothing can be sent and output_ is discarded.
  int Flush();
  // Encrypts what output_ has room for. Returns the number of plaintext bytes;
  // 0 after a failure.
  size_t Encrypt(absl::Span<const iovec> pieces);
  size_t Gather(absl::Span<const iovec> pieces, size_t offset);
  // The state of the stream after a call that returned `result`: -EAGAIN, 0 for
  // its end, or another negated errno after a failure. Sets wants_output_.
  ssize_t ResultOf(int result);
  void SetHandshakeFailure();
  // Of a client: whether the server has proven who it is, as far as it had to.
  bool HasProof() const;
  std::string OpenSslReason() const;
  void SetIdentity();
  bool IsAllowed() const;

  const Endpoint& endpoint_;
  const LibSsl& lib_;
  std::unique_ptr<Stream> below_;
  SSL* ssl_;  // nullptr when memory is exhausted

  std::string output_;  // from sent_ on; at most kTlsOutputBytes
  size_t sent_ = 0;
  size_t owed_ = 0;
  std::unique_ptr<char[]> record_;  // small pieces that share a record

  // How many reads of the stream below may still be made in this call.
  int receives_left_ = 0;
  // Set when OpenSSL may hold decrypted bytes or whole records.
  bool has_input_ = false;
  bool end_seen_ = false;
  int below_error_ = 0;
  // The end of the stream, or the failure, that Read() returns from now on.
  std::optional<ssize_t> read_end_;
  bool established_ = false;
  bool kernel_tried_ = false;
  bool kernel_sends_ = false;
  // OpenSSL continues when output_ has room.
  bool wants_output_ = false;
  bool new_keys_wanted_ = false;  // which the kernel can't change

  bool broken_ = false;  // nothing may be sent any more
  std::string psk_identity_;
  bool psk_known_ = false;
  std::string identity_;
  std::string issuer_;
  std::string failure_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_STREAM_H_
