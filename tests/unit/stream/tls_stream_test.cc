// TLS over a stream in memory, with OpenSSL as the client: what a client can do
// that no honest one does, and what a stream that is slow makes of it.

#include "stream/tls_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "stream/tls.h"
#include "support/memory_stream.h"

// What the linker puts in place of the call; see --wrap in ld(1).
namespace {
bool pretends_kernel_tls = false;
}  // namespace
extern "C" {
int __real_setsockopt(int, int, int, const void*, socklen_t);
int __wrap_setsockopt(int fd, int level, int name, const void* value,
                      socklen_t length) {
  if (pretends_kernel_tls && level == IPPROTO_TCP && name == TCP_ULP) return 0;
  return __real_setsockopt(fd, level, name, value, length);
}
}  // extern "C"

namespace nbdinetd {
namespace {

using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;

constexpr char kKeys[] =
    "alice:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

struct ClientKey {
  std::string identity = "alice";
  std::string key = std::string(
      "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"
      "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
      32);
};

unsigned GiveKey(SSL* ssl, const char*, char* identity, unsigned,
                 unsigned char* key, unsigned) {
  const auto* mine = static_cast<ClientKey*>(SSL_get_app_data(ssl));
  std::strcpy(identity, mine->identity.c_str());
  std::memcpy(key, mine->key.data(), mine->key.size());
  return static_cast<unsigned>(mine->key.size());
}

std::unique_ptr<Tls> LoadTls(std::vector<std::string> allow = {}) {
  char path[] = "/tmp/nbdinetd-psk-XXXXXX";
  close(mkstemp(path));
  std::ofstream(path) << kKeys;
  TlsSettings settings;
  settings.mode = TlsMode::kRequire;
  settings.psk_file = path;
  settings.allow = std::move(allow);
  auto tls = Tls::Load(settings);
  unlink(path);
  EXPECT_TRUE(tls.ok()) << tls.status();
  return *std::move(tls);
}

// A server's stream and its client, which exchange bytes when Pump() is called.
class Pair {
 public:
  explicit Pair(int version, ClientKey key = {},
                std::vector<std::string> allow = {},
                const char* ciphers_of_tls12 = "PSK")
      : key_(std::move(key)) {
    tls_ = LoadTls(std::move(allow));
    server_ = tls_->Wrap(std::make_unique<MemoryStream>(peer_));

    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context_, version);
    SSL_CTX_set_max_proto_version(context_, version);
    EXPECT_EQ(SSL_CTX_set_cipher_list(context_, ciphers_of_tls12), 1)
        << ciphers_of_tls12;
    SSL_CTX_set_psk_client_callback(context_, &GiveKey);
    client_ = SSL_new(context_);
    SSL_set_connect_state(client_);
    SSL_set_app_data(client_, &key_);
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    SSL_set_bio(client_, in_, out_);
  }
  ~Pair() {
    server_.reset();
    SSL_free(client_);
    SSL_CTX_free(context_);
  }

  // Moves what each has for the other.
  void Pump() {
    char buffer[65536];
    int n;
    while ((n = BIO_read(out_, buffer, sizeof(buffer))) > 0) {
      peer_.Send({buffer, static_cast<size_t>(n)});
    }
    const std::string bytes = peer_.Receive();
    wire_ += bytes.size();
    BIO_write(in_, bytes.data(), static_cast<int>(bytes.size()));
  }

  // The server's last result; 0 when both are done.
  int ShakeHands() {
    int server = -EAGAIN;
    int client = 0;
    for (int i = 0; i < 20 && (server == -EAGAIN || client != 1); ++i) {
      client = SSL_do_handshake(client_);
      Pump();
      if (server == -EAGAIN) server = server_->Handshake();
      Pump();
      if (server != 0 && server != -EAGAIN) break;
    }
    return server;
  }

  // All that the server has to read now; the result of the last call.
  ssize_t ReadAll(std::string* text, size_t at_once = 100000) {
    std::vector<char> buffer(at_once);
    for (;;) {
      const ssize_t n = server_->Read(absl::MakeSpan(buffer));
      if (n <= 0) return n;
      text->append(buffer.data(), static_cast<size_t>(n));
    }
  }

  void ClientWrite(const std::string& text) {
    size_t n;
    ASSERT_EQ(SSL_write_ex(client_, text.data(), text.size(), &n), 1);
    Pump();
  }
  std::string ClientRead() {
    Pump();
    std::string text;
    char buffer[16384];
    size_t n;
    while (SSL_read_ex(client_, buffer, sizeof(buffer), &n) == 1) {
      text.append(buffer, n);
    }
    Pump();
    return text;
  }

  TlsStream& server() { return *server_; }
  SSL* client() { return client_; }
  MemoryPeer& peer() { return peer_; }

 private:
  ClientKey key_;
  MemoryPeer peer_;
  std::unique_ptr<Tls> tls_;
  std::unique_ptr<TlsStream> server_;
  SSL_CTX* context_;
  SSL* client_;
  BIO* in_;
  BIO* out_;
  size_t wire_ = 0;
};

std::string Text(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i)
    text[i] = static_cast<char>(i * 7 + i / 251);
  return text;
}

class EachVersion : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Versions, EachVersion,
                         testing::Values(TLS1_2_VERSION, TLS1_3_VERSION));

TEST_P(EachVersion, KnowsWhoHasAKey) {
  Pair pair(GetParam());
  ASSERT_EQ(pair.ShakeHands(), 0) << pair.server().failure();
  EXPECT_EQ(pair.server().identity(), "alice");
  EXPECT_NE(pair.server().description().find("TLSv1."), std::string::npos);
  pair.ClientWrite("hello");
  std::string text;
  EXPECT_EQ(pair.ReadAll(&text), -EAGAIN);
  EXPECT_EQ(text, "hello");
}

TEST_P(EachVersion, RefusesAWrongKeyAndAnUnknownIdentityAlike) {
  ClientKey wrong_key;
  wrong_key.key[0] ^= 1;
  ClientKey stranger;
  stranger.identity = "mallory";
  unsigned long alerts[2];
  for (const ClientKey& key : {wrong_key, stranger}) {
    Pair pair(GetParam(), key);
    EXPECT_EQ(pair.ShakeHands(), -EPROTO);
    EXPECT_NE(pair.server().failure().find('"' + key.identity + '"'),
              std::string::npos)
        << pair.server().failure();
    EXPECT_EQ(pair.server().identity(), "");
    // What the client is told must not say which of the two it was.
    ERR_clear_error();
    SSL_do_handshake(pair.client());
    alerts[key.identity == "mallory"] = ERR_peek_error();
  }
  EXPECT_NE(alerts[0], 0u);
  EXPECT_EQ(alerts[0], alerts[1]);
}

TEST_P(EachVersion, AllowsByIdentity) {
  Pair allowed(GetParam(), {}, {"bob", "al*"});
  EXPECT_EQ(allowed.ShakeHands(), 0);
  Pair refused(GetParam(), {}, {"bob", "Al*", "alic"});
  EXPECT_EQ(refused.ShakeHands(), -EACCES);
  EXPECT_NE(refused.server().failure().find("--tls-allow"), std::string::npos);
}

TEST_P(EachVersion, MovesAllBytesWhateverTheStreamTakesAtOnce) {
  for (const size_t limit : {size_t{1}, size_t{7}, size_t{5000}, SIZE_MAX}) {
    Pair pair(GetParam());
    pair.peer().LimitReads(limit);
    pair.peer().LimitWrites(limit);
    int result = -EAGAIN;
    for (int i = 0; i < 20000 && result == -EAGAIN; ++i) {
      result = pair.ShakeHands();
    }
    ASSERT_EQ(result, 0) << pair.server().failure();
    const std::string text = Text(limit < 5000 ? 40000 : 3 << 20);
    // Pieces of all sizes, so that records are gathered from several.
    std::vector<iovec> pieces;
    for (size_t at = 0, size = 1; at < text.size(); at += size) {
      size =
          std::min<size_t>(at % 3 == 0 ? 28 : at % 40000 + 1, text.size() - at);
      pieces.push_back({const_cast<char*>(text.data()) + at, size});
    }
    absl::Span<iovec> rest = absl::MakeSpan(pieces);
    std::string got;
    while (!rest.empty()) {
      const ssize_t n = pair.server().Write(rest);
      got += pair.ClientRead();
      if (n == -EAGAIN) continue;
      ASSERT_GT(n, 0);
      auto left = static_cast<size_t>(n);
      while (left > 0) {
        const size_t part = std::min(left, rest[0].iov_len);
        rest[0].iov_base = static_cast<char*>(rest[0].iov_base) + part;
        rest[0].iov_len -= part;
        left -= part;
        if (rest[0].iov_len == 0) rest.remove_prefix(1);
      }
    }
    got += pair.ClientRead();
    EXPECT_EQ(got, text) << limit;
    pair.ClientWrite(text);
    std::string there;
    for (size_t i = 0; i < text.size() * 2 && there.size() < text.size(); ++i) {
      ASSERT_EQ(pair.ReadAll(&there), -EAGAIN);
    }
    EXPECT_EQ(there, text) << limit;
  }
}

TEST_P(EachVersion, SaysThatThereIsMoreWhenTheDescriptorDoesNot) {
  Pair pair(GetParam());
  ASSERT_EQ(pair.ShakeHands(), 0);
  std::string text;
  pair.ReadAll(&text);
  EXPECT_FALSE(pair.server().has_input());
  pair.ClientWrite(Text(50000));
  char some[100];
  ASSERT_EQ(pair.server().Read(absl::MakeSpan(some)), 100);
  EXPECT_EQ(pair.peer().unread(), 0u);
  EXPECT_TRUE(pair.server().has_input());
  text.assign(some, 100);
  EXPECT_EQ(pair.ReadAll(&text, 1000), -EAGAIN);
  EXPECT_EQ(text, Text(50000));
  EXPECT_FALSE(pair.server().has_input());
}

TEST_P(EachVersion, DoesNotAskAgainForTheSameBytesWhenTheStreamIsFull) {
  Pair pair(GetParam());
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.ClientRead();
  pair.peer().Stall();
  std::string text = Text(1000);
  const iovec piece = {text.data(), text.size()};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(pair.server().Write(absl::MakeConstSpan(&piece, 1)), -EAGAIN);
  }
  EXPECT_EQ(pair.ClientRead(), "");
}

TEST_P(EachVersion, EndsWithACloseNotifyOfEitherSide) {
  Pair pair(GetParam());
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.ClientRead();
  pair.ClientWrite("bye");
  SSL_shutdown(pair.client());
  pair.Pump();
  std::string text;
  EXPECT_EQ(pair.ReadAll(&text), 0);
  EXPECT_EQ(text, "bye");
  // poll() can't know, since nothing has happened to the descriptor.
  EXPECT_TRUE(pair.server().has_input());
  // Replies may still be sent.
  const iovec piece = {text.data(), 3};
  EXPECT_EQ(pair.server().Write(absl::MakeConstSpan(&piece, 1)), 3);
}

TEST(Tls13, ChangesKeysWhenTheClientWants) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(SSL_key_update(pair.client(), i % 2 == 0
                                                ? SSL_KEY_UPDATE_REQUESTED
                                                : SSL_KEY_UPDATE_NOT_REQUESTED),
              1);
    pair.ClientWrite("to");
    std::string text;
    EXPECT_EQ(pair.ReadAll(&text), -EAGAIN) << pair.server().failure();
    EXPECT_EQ(text, "to");
    std::string back = "back";
    const iovec piece = {back.data(), back.size()};
    EXPECT_EQ(pair.server().Write(absl::MakeConstSpan(&piece, 1)), 4);
    EXPECT_EQ(pair.ClientRead(), "back");
  }
}

TEST(Tls13, AnswersManyWishesForNewKeysTogether) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.ClientRead();
  std::string text;
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(SSL_key_update(pair.client(), SSL_KEY_UPDATE_REQUESTED), 1);
    ASSERT_EQ(SSL_do_handshake(pair.client()), 1);
    pair.Pump();
    ASSERT_EQ(pair.ReadAll(&text), -EAGAIN) << pair.server().failure();
  }
  text = Text(100000);
  const iovec piece = {text.data(), text.size()};
  EXPECT_EQ(pair.server().Write(absl::MakeConstSpan(&piece, 1)), 100000);
  EXPECT_EQ(pair.ClientRead(), text);
}

// Each of them costs more than its bytes, and none is anything for the caller,
// who has to look at the time and at signals.
TEST(Tls13, ReturnsBetweenManyWishesForNewKeys) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.ClientRead();
  std::string text;
  ASSERT_EQ(pair.ReadAll(&text), -EAGAIN);
  constexpr size_t kMostBytes = kTlsReceivesInARow * kTlsInputBytes;
  while (pair.peer().unread() < 2 * kMostBytes) {
    for (int i = 0; i < 100; ++i) {
      ASSERT_EQ(SSL_key_update(pair.client(), SSL_KEY_UPDATE_NOT_REQUESTED), 1);
      ASSERT_EQ(SSL_do_handshake(pair.client()), 1);
    }
    pair.Pump();
  }
  pair.ClientWrite("hello");
  const size_t sent = pair.peer().unread();
  std::vector<char> buffer(100);
  EXPECT_EQ(pair.server().Read(absl::MakeSpan(buffer)), -EAGAIN);
  EXPECT_GE(pair.peer().unread(), sent - kMostBytes);
  ssize_t n = -EAGAIN;
  for (int i = 0; i < 4 && n == -EAGAIN; ++i) {
    // poll() tells that there is more, or the stream itself does.
    ASSERT_TRUE(pair.server().has_input() || pair.peer().unread() > 0);
    n = pair.server().Read(absl::MakeSpan(buffer));
  }
  ASSERT_EQ(n, 5) << pair.server().failure();
  EXPECT_EQ(std::string(buffer.data(), 5), "hello");
}

// A client that reads none of the answers is read from no more, and whoever
// waits for the stream is told to wait for its output. When it reads again,
// what is behind those wishes comes without anything new from the client.
TEST(Tls13, ReadsNothingWhileItsAnswersAreNotTaken) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.ClientRead();
  std::string text;
  ASSERT_EQ(pair.ReadAll(&text), -EAGAIN);
  EXPECT_FALSE(pair.server().has_output());
  pair.peer().Stall();
  // More than there is room for answers to, and no more than is received at
  // once.
  while (pair.peer().unread() < kTlsOutputBytes * 5 / 4) {
    for (int i = 0; i < 100; ++i) {
      ASSERT_EQ(SSL_key_update(pair.client(), SSL_KEY_UPDATE_REQUESTED), 1);
      ASSERT_EQ(SSL_do_handshake(pair.client()), 1);
    }
    pair.Pump();
  }
  pair.ClientWrite("hello");
  EXPECT_EQ(pair.ReadAll(&text), -EAGAIN);
  EXPECT_TRUE(pair.server().has_output());
  EXPECT_EQ(pair.peer().unread(), 0u);
  pair.peer().Send("x");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(pair.ReadAll(&text), -EAGAIN);
    EXPECT_TRUE(pair.server().has_output());
    EXPECT_FALSE(pair.server().has_input());
  }
  EXPECT_EQ(pair.peer().unread(), 1u);
  EXPECT_EQ(text, "");
  pair.peer().Stall(false);
  for (int i = 0; i < 100 && text.empty(); ++i) {
    // Whatever is still in the peer's hands is of no use before it.
    ASSERT_TRUE(pair.server().has_output() || pair.server().has_input()) << i;
    EXPECT_EQ(pair.ReadAll(&text), -EAGAIN) << pair.server().failure();
  }
  EXPECT_EQ(text, "hello");
}

// Answers that can be sent no more are no reason to wait for anything.
TEST(Tls13, DropsAnswersToAClientThatReadsNoMore) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.ClientRead();
  // OpenSSL answers the first when it sees the second.
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(SSL_key_update(pair.client(), SSL_KEY_UPDATE_REQUESTED), 1);
    ASSERT_EQ(SSL_do_handshake(pair.client()), 1);
  }
  pair.ClientWrite("bye");
  const size_t writes = pair.peer().writes();
  pair.peer().BreakAfter(0, -EPIPE);
  std::string text;
  EXPECT_EQ(pair.ReadAll(&text), -EAGAIN);
  EXPECT_GT(pair.peer().writes(), writes);
  EXPECT_EQ(text, "bye");
  EXPECT_FALSE(pair.server().has_output());
}

// With elliptic curves and authenticated encryption; no finite fields, no CBC.
TEST(Tls12, HasOneKindOfCipherForPreSharedKeys) {
  Pair served(TLS1_2_VERSION, {}, {}, "ECDHE-PSK-CHACHA20-POLY1305");
  EXPECT_EQ(served.ShakeHands(), 0) << served.server().failure();
  for (const char* cipher :
       {"DHE-PSK-AES128-GCM-SHA256", "DHE-PSK-AES256-GCM-SHA384",
        "DHE-PSK-CHACHA20-POLY1305", "DHE-PSK-AES128-CBC-SHA256",
        "ECDHE-PSK-AES128-CBC-SHA256", "ECDHE-PSK-AES256-CBC-SHA384",
        "PSK-AES128-GCM-SHA256", "PSK-AES128-CBC-SHA",
        "RSA-PSK-AES128-GCM-SHA256"}) {
    Pair refused(TLS1_2_VERSION, {}, {}, cipher);
    EXPECT_EQ(refused.ShakeHands(), -EPROTO) << cipher;
    EXPECT_NE(refused.server().failure().find("no shared cipher"),
              std::string::npos)
        << cipher << ": " << refused.server().failure();
  }
}

TEST(Tls12, RefusesToRenegotiate) {
  Pair pair(TLS1_2_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  ASSERT_EQ(SSL_renegotiate(pair.client()), 1);
  SSL_do_handshake(pair.client());
  pair.Pump();
  std::string text;
  // A warning, after which the client may go on.
  EXPECT_EQ(pair.ReadAll(&text), -EAGAIN) << pair.server().failure();
  EXPECT_EQ(text, "");
  pair.Pump();
  ERR_clear_error();
  EXPECT_NE(SSL_do_handshake(pair.client()), 1);
}

TEST(Garbage, EndsTheStreamWithAReason) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.peer().Send("this is no record of TLS, but long enough to be one");
  std::string text;
  EXPECT_EQ(pair.ReadAll(&text), -EPROTO);
  EXPECT_NE(pair.server().failure(), "");
  EXPECT_EQ(pair.ReadAll(&text), -EPROTO);
  const iovec piece = {text.data(), text.size()};
  EXPECT_LT(pair.server().Write(absl::MakeConstSpan(&piece, 1)), 0);
}

TEST(Reset, IsAnErrnoAndNoFailureOfTls) {
  Pair pair(TLS1_3_VERSION);
  ASSERT_EQ(pair.ShakeHands(), 0);
  pair.peer().Reset();
  std::string text;
  EXPECT_EQ(pair.ReadAll(&text), -ECONNRESET);
  EXPECT_EQ(pair.server().failure(), "");
}

// The kernel says that it has TLS, and then takes none of OpenSSL's keys.
class KernelTls : public testing::Test {
 protected:
  void SetUp() override {
    const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(bind(listener.get(), generic, length), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    ASSERT_EQ(getsockname(listener.get(), generic, &length), 0);
    client_fd_.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(client_fd_.get(), generic, length), 0);
    fcntl(client_fd_.get(), F_SETFL, O_RDWR | O_NONBLOCK);
    UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(server.valid());
    shared_.Reset(fcntl(server.get(), F_DUPFD_CLOEXEC, 0));

    pretends_kernel_tls = true;
    server_ = tls_->Wrap(std::make_unique<SocketStream>(std::move(server)));
    pretends_kernel_tls = false;
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_psk_client_callback(context_, &GiveKey);
    client_ = SSL_new(context_);
    SSL_set_app_data(client_, &key_);
    SSL_set_fd(client_, client_fd_.get());
    SSL_set_connect_state(client_);
  }
  void TearDown() override {
    SSL_free(client_);
    SSL_CTX_free(context_);
  }

  // The server's kernel pretends to take a key, and OpenSSL's calls, which
  // nothing wraps, are refused. One that really has TLS doesn't refuse them;
  // tests/vm/kernel_tls_test.py is for it.
  bool KernelRefuses() const {
    return setsockopt(client_fd_.get(), IPPROTO_TCP, TCP_ULP, "tls",
                      sizeof("tls")) != 0;
  }
  bool IsBlocking() const {
    return (fcntl(shared_.get(), F_GETFL) & O_NONBLOCK) == 0;
  }
  // The server's last result.
  int ShakeHands() {
    int server = -EAGAIN;
    for (int client = 0; server == -EAGAIN || client != 1;) {
      client = SSL_do_handshake(client_);
      if (server == -EAGAIN) server = server_->Handshake();
      if (server != 0 && server != -EAGAIN) break;
    }
    return server;
  }

  ClientKey key_;
  UniqueFd client_fd_;
  UniqueFd shared_;  // somebody else's duplicate
  std::unique_ptr<Tls> tls_ = LoadTls();
  std::unique_ptr<TlsStream> server_;
  SSL_CTX* context_;
  SSL* client_;
};

TEST_F(KernelTls, IsDoneWithoutAndLeavesTheSocketAsItWas) {
  if (!KernelRefuses()) GTEST_SKIP() << "the kernel has TLS";
  EXPECT_FALSE(IsBlocking());
  ASSERT_EQ(ShakeHands(), 0) << server_->failure();
  EXPECT_TRUE(IsBlocking());
  std::string hello = "hello";
  const iovec piece = {hello.data(), hello.size()};
  EXPECT_EQ(server_->Write(absl::MakeConstSpan(&piece, 1)), 5);
  char buffer[8];
  size_t n = 0;
  while (SSL_read_ex(client_, buffer, sizeof(buffer), &n) != 1) {
    ASSERT_EQ(SSL_get_error(client_, 0), SSL_ERROR_WANT_READ);
  }
  EXPECT_EQ(std::string(buffer, n), "hello");
}

// OpenSSL 3.0 has read on when it wants to pass the key for them to the kernel.
TEST_F(KernelTls, BytesThatComeWithTheEndOfTheHandshakeAreThere) {
  BIO* const writer = SSL_get_wbio(client_);
  ASSERT_NE(SSL_do_handshake(client_), 1);
  const uint64_t first_flight = BIO_number_written(writer);
  do {
    ASSERT_EQ(server_->Handshake(), -EAGAIN) << server_->failure();
  } while (SSL_do_handshake(client_) != 1);
  ASSERT_EQ(SSL_write(client_, "hello", 5), 5);
  const uint64_t sent = BIO_number_written(writer) - first_flight;
  for (int unread = 0; static_cast<uint64_t>(unread) < sent;) {
    ASSERT_EQ(ioctl(shared_.get(), FIONREAD, &unread), 0);
  }
  ASSERT_EQ(server_->Handshake(), 0) << server_->failure();
  char buffer[8];
  EXPECT_EQ(server_->Read(absl::MakeSpan(buffer)), 5);
}

TEST_F(KernelTls, IsDoneWithoutInTls12) {
  if (!KernelRefuses()) GTEST_SKIP() << "the kernel has TLS";
  SSL_set_max_proto_version(client_, TLS1_2_VERSION);
  ASSERT_EQ(ShakeHands(), 0) << server_->failure();
  EXPECT_EQ(server_->description(), "TLSv1.2, ECDHE-PSK-CHACHA20-POLY1305");
}

TEST_F(KernelTls, AHandshakeThatIsGivenUpLeavesTheSocketAsItWas) {
  EXPECT_EQ(server_->Handshake(), -EAGAIN);
  EXPECT_FALSE(IsBlocking());
  server_.reset();
  EXPECT_TRUE(IsBlocking());
}

TEST_F(KernelTls, AnAbortLeavesTheSocketAsItWas) {
  EXPECT_FALSE(IsBlocking());
  server_->Abort();
  EXPECT_TRUE(IsBlocking());
}

}  // namespace
}  // namespace nbdinetd
