// TLS without encryption, for tests of who uses it: the handshake has the
// result that the test wants, and bytes pass unchanged.

#ifndef NBDINETD_TESTS_SUPPORT_PLAIN_TLS_H_
#define NBDINETD_TESTS_SUPPORT_PLAIN_TLS_H_

#include <memory>
#include <string>
#include <utility>

#include "stream/tls.h"

namespace nbdtest {

class PlainTls : public nbdinetd::Tls {
 public:
  // `result` is that of TlsStream::Handshake().
  explicit PlainTls(int result = 0) : result_(result) {}
  std::string description() const override { return "no encryption"; }
  std::string warning() const override { return ""; }
  std::unique_ptr<nbdinetd::TlsStream> Wrap(
      std::unique_ptr<nbdinetd::Stream> plain) const override {
    return std::make_unique<Wrapped>(std::move(plain), result_);
  }

 private:
  class Wrapped : public nbdinetd::TlsStream {
   public:
    Wrapped(std::unique_ptr<nbdinetd::Stream> below, int result)
        : below_(std::move(below)), result_(result) {}
    int Handshake() override { return result_; }
    const std::string& identity() const override { return nobody_; }
    bool identity_is_psk() const override { return false; }
    const std::string& issuer() const override { return nobody_; }
    std::string description() const override { return "no encryption"; }
    ssize_t Read(absl::Span<char> buffer) override {
      return below_->Read(buffer);
    }
    ssize_t Write(absl::Span<const iovec> pieces, bool more) override {
      return below_->Write(pieces, more);
    }
    bool has_input() const override { return below_->has_input(); }
    void Abort() override { below_->Abort(); }
    std::string failure() const override { return "the handshake failed"; }
    int input_fd() const override { return below_->input_fd(); }
    int output_fd() const override { return below_->output_fd(); }

   private:
    std::unique_ptr<nbdinetd::Stream> below_;
    const int result_;
    const std::string nobody_;
  };

  const int result_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_PLAIN_TLS_H_
