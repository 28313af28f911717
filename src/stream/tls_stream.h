// A TlsStream by OpenSSL.
//
// OpenSSL never touches the descriptor: it reads and writes through a BIO of
// ours, from and to the stream below. So that stream's rules hold (it never
// blocks, never raises SIGPIPE, may be a pair of pipes), many records go out by
// one system call, and OpenSSL never has to be asked again with the same bytes:
// it is given a record only when there is room for the encrypted one. Where the
// kernel has taken over the encryption of what is sent, writes go to the socket
// as they are.
//
// Beside what the stream below does, and memory, the handshake and what follows
// ask this of the system: getrandom and getpid, for random numbers; on a TCP
// socket setsockopt(TCP_ULP), and where the kernel has TLS fcntl(F_GETFL,
// F_SETFL), setsockopt(SOL_TLS), read, write, recvmsg and sendmsg. Nothing is
// opened. Where one of the calls for the kernel's TLS is refused, OpenSSL goes
// on by itself.
//
// Invariant: output_ holds encrypted bytes that the stream below hasn't taken;
// owed_ says how many bytes of the caller's they stand for. Threads: one.
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

class OpenSslStream : public TlsStream {
 public:
  // What there is for each client; borrowed.
  struct Server {
    SSL_CTX* context = nullptr;
    BIO_METHOD* bio_method = nullptr;  // from MakeBioMethod()
    PskMap keys;
    std::vector<std::string> allow;
  };

  // nullptr when there is no memory.
  static BIO_METHOD* MakeBioMethod(const LibSsl& lib);
  // For SSL_CTX_set_psk_server_callback().
  static unsigned FindKey(SSL* ssl, const char* identity, unsigned char* key,
                          unsigned max_key_bytes);

  OpenSslStream(const Server& server, std::unique_ptr<Stream> below);
  // Tells the peer that this is the end (close_notify).
  ~OpenSslStream() override;

  int Handshake() override;
  const std::string& identity() const override { return identity_; }
  std::string description() const override;

  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces, bool more = false) override;
  // Where the kernel encrypts.
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
  std::optional<uint64_t> acknowledged_bytes() const override {
    return below_->acknowledged_bytes();
  }
  void Abort() override;
  std::string failure() const override { return failure_; }
  int input_fd() const override { return below_->input_fd(); }
  int output_fd() const override { return below_->output_fd(); }

 private:
  // The BIO's functions.
  static int ReadBio(BIO* bio, char* data, size_t size, size_t* done);
  static int WriteBio(BIO* bio, const char* data, size_t size, size_t* done);
  static long ControlBio(BIO* bio, int command, long number, void* pointer);
  BIO* MakeBio();

  // True if OpenSSL is to use the socket itself, so as to let the kernel
  // encrypt.
  bool TryKernel();
  void LeaveKernel();
  void ForgetKernel();
  static void WatchMessages(int is_write, int version, int content_type,
                            const void* data, size_t size, SSL* ssl,
                            void* stream);

  // Sends output_ as far as the stream below takes it: 0, or a negated errno.
  // But for -EAGAIN nothing can be sent any more, and output_ is dropped.
  int Flush();
  // Encrypts what there is room for; how many bytes. 0 after a failure.
  size_t Encrypt(absl::Span<const iovec> pieces);
  size_t Gather(absl::Span<const iovec> pieces, size_t offset);
  // What a call that returned `result` says about the stream: -EAGAIN, 0 for
  // its end, or another negated errno after a failure. Sets wants_output_.
  ssize_t ResultOf(int result);
  void SetHandshakeFailure();
  std::string OpenSslReason() const;
  void SetIdentity();
  bool IsAllowed() const;

  const Server& server_;
  const LibSsl& lib_;
  std::unique_ptr<Stream> below_;
  SSL* ssl_;

  std::string output_;  // from sent_ on; never longer than kTlsOutputBytes
  size_t sent_ = 0;
  size_t owed_ = 0;
  std::unique_ptr<char[]> record_;  // small pieces, gathered

  // How many more reads of the stream below may bring something, in this call.
  int receives_left_ = 0;
  // Decrypted bytes, or whole records, may be waiting in OpenSSL.
  bool has_input_ = false;
  bool end_seen_ = false;
  int below_error_ = 0;
  // The end of the stream, or the failure, that Read() returns from now on.
  std::optional<ssize_t> read_end_;
  bool established_ = false;
  bool kernel_tried_ = false;
  bool kernel_sends_ = false;
  // OpenSSL goes on when there is room for what it sends.
  bool wants_output_ = false;
  bool new_keys_wanted_ = false;  // and the kernel can't change its keys

  bool broken_ = false;  // nothing may be sent any more
  std::string psk_identity_;
  bool psk_known_ = false;
  std::string identity_;
  std::string failure_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_TLS_STREAM_H_
