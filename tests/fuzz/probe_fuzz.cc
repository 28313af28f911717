// What a server answers to `nbdinetctl probe`, and the URI that names it. An
// answer is believed, or refused with a sentence; a URI, too.
//
// An input is a byte that chooses (u: a URI; r: a server that is read from; t:
// one with TLS), and then the URI, or the size of the pieces in which a
// server's bytes come, and those.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "ctl/export_probe.h"
#include "ctl/nbd_uri.h"
#include "fuzz/simulation.h"
#include "stream/channel.h"
#include "stream/stream.h"
#include "support/plain_tls.h"

namespace {

using nbdfuzz::Require;

constexpr size_t kClientFlagsBytes = 4;
constexpr size_t kOptionBytes = 16;  // without a payload

// A server whose bytes are there, and that takes all that it is sent.
class Server : public nbdinetd::Stream {
 public:
  Server(std::string_view bytes, size_t piece) : rest_(bytes), piece_(piece) {}

  ssize_t Read(absl::Span<char> buffer) override {
    const size_t n = std::min({buffer.size(), rest_.size(), piece_});
    if (n > 0) std::memcpy(buffer.data(), rest_.data(), n);
    rest_.remove_prefix(n);
    return static_cast<ssize_t>(n);
  }
  ssize_t Write(absl::Span<const iovec> pieces, bool) override {
    sent_ += pieces[0].iov_len;
    return static_cast<ssize_t>(pieces[0].iov_len);
  }
  bool has_input() const override { return true; }
  void Abort() override {}
  int input_fd() const override { return -1; }
  int output_fd() const override { return -1; }
  size_t sent() const { return sent_; }

 private:
  std::string_view rest_;
  const size_t piece_;
  size_t sent_ = 0;
};

void TryServer(char how, size_t piece, std::string_view bytes) {
  auto owned = std::make_unique<Server>(bytes, piece);
  const Server& server = *owned;
  nbdinetd::Channel channel(std::move(owned), -1);
  channel.BeginHandshake(nbdinetd::SteadyNow() + absl::Hours(1));
  nbdinetd::ctl::ExportProbe probe(channel);
  absl::Status status = probe.Greet();
  size_t most = kClientFlagsBytes;
  const nbdtest::PlainTls tls;
  if (status.ok() && how == 't') {
    status = probe.StartTls(tls);
    most += kOptionBytes;
  }
  if (!status.ok()) {
    nbdfuzz::RequireSentence(status.message());
    Require(server.sent() <= most, "the probe asks in plain text");
    return;
  }
  const auto information =
      how == 'r' ? probe.Read("golden") : probe.Ask("golden");
  if (!information.ok()) {
    nbdfuzz::RequireSentence(information.status().message());
  } else {
    Require(information->size_bytes.has_value(), "an export without a size");
  }
  Require(server.sent() <= 200, "the server makes the probe talk");
}

void TryUri(std::string_view text) {
  const auto uri = nbdinetd::ctl::ParseNbdUri({text.data(), text.size()});
  if (!uri.ok()) {
    Require(absl::IsInvalidArgument(uri.status()), "not wrong usage");
    nbdfuzz::RequireSentence(uri.status().message());
    return;
  }
  Require(uri->host.empty() == uri->port.empty() &&
              uri->host.empty() != uri->socket.empty(),
          "a URI of no transport, or of two");
  Require(uri->host.find('\0') == std::string::npos,
          "NUL in the name of a host");
  Require(uri->socket.find('\0', 1) == std::string::npos &&
              uri->socket.size() < 108,
          "a socket that has no such address");
  Require(!uri->tls.has_value() ||
              (uri->tls->hostname + uri->tls->certificates + uri->tls->psk_file)
                      .find('\0') == std::string::npos,
          "NUL in a name for TLS");
  Require(uri->export_name.size() <= nbdinetd::kMaxStringBytes,
          "a name that is too long");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (bytes[0] == 'u') {
    TryUri(bytes.substr(1));
  } else {
    TryServer(bytes[0], static_cast<uint8_t>(bytes[1]) + size_t{1},
              bytes.substr(2));
  }
  return 0;
}
