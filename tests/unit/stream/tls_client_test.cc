// Both sides of TLS over streams in memory: a client of this program with a
// server of this program. tests/system/probe_tls_test.py has certificates.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "stream/tls.h"
#include "support/memory_stream.h"

namespace nbdinetd {
namespace {

using nbdtest::MemoryPeer;
using nbdtest::MemoryStream;

// Two hexadecimal keys of 32 bytes.
const std::string kKey = std::string(62, '0') + "aa";
const std::string kOtherKey = std::string(62, '0') + "bb";

// A file for the time of a test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    close(mkstemp(path_.data()));
    std::ofstream(path_) << content;
  }
  ~TemporaryFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/nbdinetd-psk-XXXXXX";
};

absl::StatusOr<std::unique_ptr<Tls>> Client(const std::string& identity,
                                            const std::string& keys) {
  const TemporaryFile file(keys);
  TlsClientSettings settings;
  settings.psk_file = file.path();
  settings.psk_identity = identity;
  return Tls::LoadClient(settings);
}

std::unique_ptr<Tls> Server(const std::string& keys) {
  const TemporaryFile file(keys);
  TlsSettings settings;
  settings.mode = TlsMode::kRequire;
  settings.psk_file = file.path();
  auto tls = Tls::Load(settings);
  EXPECT_TRUE(tls.ok()) << tls.status();
  return *std::move(tls);
}

// A client and a server that exchange bytes when Pump() is called.
class Sides {
 public:
  Sides(const Tls& client, const Tls& server)
      : client_(client.Wrap(std::make_unique<MemoryStream>(of_client_))),
        server_(server.Wrap(std::make_unique<MemoryStream>(of_server_))) {}

  void Pump() {
    of_server_.Send(of_client_.Receive());
    of_client_.Send(of_server_.Receive());
  }

  // The results of both, when neither is waiting any more.
  std::pair<int, int> ShakeHands() {
    int client = -EAGAIN;
    int server = -EAGAIN;
    for (int i = 0; i < 20 && (client == -EAGAIN || server == -EAGAIN); ++i) {
      if (client == -EAGAIN) client = client_->Handshake();
      Pump();
      if (server == -EAGAIN) server = server_->Handshake();
      Pump();
    }
    return {client, server};
  }

  TlsStream& client() { return *client_; }
  TlsStream& server() { return *server_; }

  // What one side receives of what the other sends.
  std::string Carry(TlsStream& from, TlsStream& to, const std::string& text) {
    std::string sent = text;
    const iovec piece = {sent.data(), sent.size()};
    EXPECT_EQ(from.Write(absl::MakeConstSpan(&piece, 1)),
              static_cast<ssize_t>(text.size()));
    Pump();
    std::vector<char> buffer(text.size() + 1);
    const ssize_t n = to.Read(absl::MakeSpan(buffer));
    return n < 0 ? "" : std::string(buffer.data(), static_cast<size_t>(n));
  }

 private:
  MemoryPeer of_client_;
  MemoryPeer of_server_;
  std::unique_ptr<TlsStream> client_;
  std::unique_ptr<TlsStream> server_;
};

TEST(TlsClient, ShowsItsKeyAndNoOther) {
  const auto client =
      Client("bob", "alice:" + kKey + "\nbob:" + kOtherKey + "\n");
  ASSERT_TRUE(client.ok()) << client.status();
  const auto server = Server("bob:" + kOtherKey + "\n");
  Sides sides(**client, *server);
  EXPECT_EQ(sides.ShakeHands(), std::make_pair(0, 0))
      << sides.client().failure() << sides.server().failure();
  EXPECT_EQ(sides.server().identity(), "bob");
  EXPECT_EQ(sides.Carry(sides.client(), sides.server(), "hello"), "hello");
  EXPECT_EQ(sides.Carry(sides.server(), sides.client(), "welcome"), "welcome");
}

TEST(TlsClient, RefusesAServerThatHasAnotherKey) {
  const auto client = Client("alice", "alice:" + kKey + "\n");
  ASSERT_TRUE(client.ok()) << client.status();
  const auto server = Server("alice:" + kOtherKey + "\n");
  Sides sides(**client, *server);
  const auto [of_client, of_server] = sides.ShakeHands();
  EXPECT_EQ(of_client, -EPROTO);
  EXPECT_EQ(of_server, -EPROTO);
  EXPECT_TRUE(
      absl::EndsWith(sides.client().failure(), " (PSK identity \"alice\")"))
      << sides.client().failure();
}

TEST(TlsClient, NamesTheFileThatHasNoKeyOfTheUser) {
  const auto client = Client("carol", "alice:" + kKey + "\n");
  ASSERT_FALSE(client.ok());
  EXPECT_TRUE(
      absl::EndsWith(client.status().message(), "has no key of \"carol\""))
      << client.status();
  EXPECT_FALSE(absl::StrContains(client.status().message(), kKey));
}

}  // namespace
}  // namespace nbdinetd
