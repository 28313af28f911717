// A TLS 1.3 client that wants new keys, again and again, of the real program:
// honest ones are served, and one that reads none of the answers costs no
// processor time, and ends as one that reads no replies.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "support/image.h"
#include "support/peer.h"
#include "support/server_process.h"
#include "support/session.h"

namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

constexpr uint64_t kImageSize = 1 << 20;
constexpr int kExitTimedOut = 75;
constexpr unsigned char kKey[32] = {0x11};

unsigned GiveKey(SSL*, const char*, char* identity, unsigned,
                 unsigned char* key, unsigned) {
  std::strcpy(identity, "alice");
  std::memcpy(key, kKey, sizeof kKey);
  return sizeof kKey;
}

// The processor time that a process has used, in ticks; also of one that has
// ended and isn't reaped.
long Ticks(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  long user = 0;
  long system = 0;
  std::sscanf(text.c_str() + text.rfind(')') + 1,
              " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user,
              &system);
  return user + system;
}

class KeyUpdates : public testing::Test {
 protected:
  void SetUp() override {
    const std::string keys = directory_.path() + "/keys";
    std::ofstream out(keys);
    out << "alice:";
    for (const unsigned char byte : kKey) {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", byte);
      out << digits;
    }
    out << "\n";
    out.close();

    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    server_ = std::make_unique<ServerProcess>(
        ServerProcess::Setup{.arguments = {"--tls=require", "--tls-psk=" + keys,
                                           "--stall-timeout=2s", image_.path()},
                             .in = ends[1],
                             .out = ends[1]});
    close(ends[1]);
    fd_ = ends[0];
    plain_ = std::make_unique<Peer>(fd_, fd_);
    plain_->Open();
    ASSERT_TRUE(HasType(plain_->Negotiate(kOptStartTls), kRepAck));

    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION);
    SSL_CTX_set_psk_client_callback(context_, &GiveKey);
    SSL_CTX_set_mode(context_, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                   SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, fd_);
    Complete([&] { return SSL_connect(ssl_); });
    Send(OptionMessage(kOptGo, InfoPayload("", std::vector<uint16_t>())));
    // NBD_REP_INFO with the export's size, and NBD_REP_ACK.
    Receive(20 + 12 + 20);
  }

  void TearDown() override {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }

  // Repeats a call of OpenSSL's until it has succeeded.
  template <typename Call>
  void Complete(Call call) {
    for (;;) {
      const int result = call();
      if (result == 1) return;
      const int error = SSL_get_error(ssl_, result);
      if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
        throw BrokenConversation("TLS failed with " + std::to_string(error));
      }
      WaitFor(error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT);
    }
  }
  void WaitFor(short events) {
    pollfd entry = {fd_, events, 0};
    if (poll(&entry, 1, 60'000) != 1) throw BrokenConversation("hang");
  }

  void Send(const Bytes& bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      size_t n = 0;
      Complete([&] {
        return SSL_write_ex(ssl_, bytes.data() + done, bytes.size() - done, &n);
      });
      done += n;
    }
  }
  Bytes Receive(size_t size) {
    Bytes bytes(size, '\0');
    for (size_t done = 0; done < size;) {
      size_t n = 0;
      Complete([&] {
        return SSL_read_ex(ssl_, bytes.data() + done, size - done, &n);
      });
      done += n;
    }
    return bytes;
  }
  void ReadsOnce() {
    Send(RequestMessage(
        {.type = kCmdRead, .offset = 4096, .length = 512, .cookie = 9}));
    EXPECT_TRUE(SameBytes(Receive(16 + 512).substr(16), Pattern(4096, 512)));
  }

  // Sends wishes for new keys, and reads nothing, until the server takes no
  // more. How many there were.
  int Flood() {
    int count = 0;
    pollfd entry = {fd_, POLLOUT, 0};
    for (;;) {
      const long before = Ticks(server_->pid());
      const int ready = poll(&entry, 1, 500);
      if (ready == 1 && (entry.revents & (POLLERR | POLLHUP)) == 0) {
        for (int i = 0; i < 100; ++i) {
          if (SSL_key_update(ssl_, SSL_KEY_UPDATE_REQUESTED) != 1) break;
          if (SSL_do_handshake(ssl_) != 1) break;
          ++count;
        }
      } else if (ready != 0 || Ticks(server_->pid()) == before) {
        // A slow server computes while the socket is full, and reads later.
        return count;
      }
    }
  }

  // Waits for the end of the server, and leaves what the kernel knows of it.
  bool HasEnded() {
    const auto deadline = std::chrono::steady_clock::now() + kHangGuard;
    siginfo_t info = {};
    while (info.si_pid == 0 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      waitid(P_PID, static_cast<id_t>(server_->pid()), &info,
             WEXITED | WNOWAIT | WNOHANG);
    }
    return info.si_pid != 0;
  }

  TempImage image_ = TempImage::WithPattern(kImageSize);
  TempDir directory_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<Peer> plain_;
  int fd_ = -1;
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
};

TEST_F(KeyUpdates, AreGrantedBetweenRequests) {
  for (int i = 0; i < 200; ++i) {
    SSL_key_update(ssl_, i % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED
                                    : SSL_KEY_UPDATE_NOT_REQUESTED);
    ReadsOnce();
  }
  Send(RequestMessage({.type = kCmdDisc}));
  EXPECT_TRUE(ExitedWith(server_->WaitForExit(), kExitOk));
}

TEST_F(KeyUpdates, OfAClientThatReadsNoneOfTheAnswersCostNoTime) {
  EXPECT_GT(Flood(), 1000);
  const long before = Ticks(server_->pid());
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(HasEnded());
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - begin;
  // A server that tries to send all the time uses a processor for itself.
  EXPECT_LT(static_cast<double>(Ticks(server_->pid()) - before),
            elapsed.count() * static_cast<double>(sysconf(_SC_CLK_TCK)) / 2);
  const ExitReport& report = server_->WaitForExit();
  EXPECT_TRUE(ExitedWith(report, kExitTimedOut));
  EXPECT_NE(report.standard_error.find("client read no replies for 2s"),
            std::string::npos)
      << report.standard_error;
}

TEST_F(KeyUpdates, OfAClientThatReadsTheAnswersLateAreAllGranted) {
  EXPECT_GT(Flood(), 1000);
  // The request comes behind all of them.
  ReadsOnce();
  ReadsOnce();
  Send(RequestMessage({.type = kCmdDisc}));
  EXPECT_TRUE(ExitedWith(server_->WaitForExit(), kExitOk));
}

}  // namespace
