#include "base/message_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/limits.h"
#include "base/steady_clock.h"
#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

using Messages = std::vector<std::string>;

// The daemon's end. It takes nothing until it is asked to.
class Daemon {
 public:
  Daemon(const std::string& name, int type) : name_(name) {
    socket_.Reset(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    size_t length = offsetof(sockaddr_un, sun_path) + name.size() + 1;
    if (name[0] == '@') {
      address.sun_path[0] = '\0';
      --length;
    }
    if (bind(socket_.get(), reinterpret_cast<sockaddr*>(&address),
             static_cast<socklen_t>(length)) != 0 ||
        (type == SOCK_STREAM && listen(socket_.get(), 1) != 0)) {
      abort();
    }
  }
  ~Daemon() {
    if (name_[0] == '/') unlink(name_.c_str());
  }

  // All that has come, a datagram each; of a stream socket all at once.
  Messages Take() {
    UniqueFd accepted(
        accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (accepted.valid()) {
      ++connections_;
      connection_ = std::move(accepted);
    }
    const int fd = connection_.valid() ? connection_.get() : socket_.get();
    Messages messages;
    std::string buffer(1 << 16, '\0');
    ssize_t n;
    while ((n = read(fd, buffer.data(), buffer.size())) > 0) {
      messages.push_back(buffer.substr(0, static_cast<size_t>(n)));
    }
    return messages;
  }
  // Reads one datagram.
  std::string TakeOne() {
    char buffer[16];
    const ssize_t n = read(socket_.get(), buffer, sizeof(buffer));
    return n < 0 ? "(none)" : std::string(buffer, static_cast<size_t>(n));
  }
  // How many connections Take() has accepted on a stream socket.
  int connections() const { return connections_; }

 private:
  const std::string name_;
  UniqueFd socket_, connection_;
  int connections_ = 0;
};

class MessageSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/nbdinetd-message-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    folder_ = path;
    name_ = folder_ + "/log";
  }
  void TearDown() override {
    daemon_.reset();
    rmdir(folder_.c_str());
  }
  void Start(int type = SOCK_DGRAM) {
    daemon_ = std::make_unique<Daemon>(name_, type);
  }

  // Sends until a message is lost; how many were not.
  static int Fill(MessageSocket& socket) {
    int sent = 0;
    while (socket.Send("filler")) ++sent;
    return sent;
  }

  // The same by a socket of the test's own, which doesn't wait.
  int FillAtOnce() {
    const UniqueFd filler(
        socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, name_.c_str(), sizeof(address.sun_path) - 1);
    int sent = 0;
    while (sendto(filler.get(), "x", 1, 0,
                  reinterpret_cast<sockaddr*>(&address),
                  sizeof(address)) == 1) {
      ++sent;
    }
    EXPECT_EQ(errno, EAGAIN);
    return sent;
  }

  // 'R', 'S', ...: what a thread of this process does.
  static char StateOf(pid_t thread) {
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string text;
    std::getline(file, text);
    return text[text.rfind(')') + 2];
  }

  std::string folder_, name_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(MessageSocketTest, SendsDatagramsOneForEachMessage) {
  Start();
  MessageSocket socket(name_);
  ASSERT_TRUE(socket.valid());
  EXPECT_TRUE(socket.Send("one"));
  EXPECT_TRUE(socket.Send(std::string("t\0o", 3)));
  EXPECT_EQ(daemon_->Take(), (Messages{"one", std::string("t\0o", 3)}));
}

TEST_F(MessageSocketTest, AwaitsThatItsMessagesAreHandled) {
  Start();
  MessageSocket socket(name_);
  ASSERT_TRUE(socket.Send("one"));
  ASSERT_TRUE(socket.Send("two"));
  std::atomic<pid_t> thread = 0;
  std::atomic<bool> handled = false;
  std::thread waiter([&] {
    thread = gettid();
    socket.AwaitReceived(absl::InfiniteFuture());
    handled = true;
  });
  while (thread == 0 || StateOf(thread) != 'S') std::this_thread::yield();
  // The daemon has copied the last message, and may still handle it.
  EXPECT_EQ(daemon_->TakeOne(), "one");
  EXPECT_EQ(daemon_->TakeOne(), "two");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(handled);
  EXPECT_EQ(daemon_->TakeOne(), "");
  waiter.join();
  EXPECT_TRUE(handled);
}

TEST_F(MessageSocketTest, AwaitsADaemonThatDoesNotReadUntilTheDeadlineOnly) {
  Start();
  MessageSocket socket(name_);
  ASSERT_TRUE(socket.Send("one"));
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(50);
  socket.AwaitReceived(deadline);
  EXPECT_GE(SteadyNow(), deadline);
  // It has been waited for.
  socket.AwaitReceived(absl::InfiniteFuture());
}

TEST_F(MessageSocketTest, AwaitsNothingIfNothingCanBeUnread) {
  MessageSocket().AwaitReceived(absl::InfiniteFuture());
  Start();
  MessageSocket socket(name_);
  socket.AwaitReceived(absl::InfiniteFuture());
  ASSERT_TRUE(socket.Send("one"));
  // Another process's messages aren't this one's.
  socket.Renew();
  socket.AwaitReceived(absl::InfiniteFuture());
  ASSERT_TRUE(socket.Send("two"));
  daemon_.reset();
  socket.AwaitReceived(absl::InfiniteFuture());
}

TEST_F(MessageSocketTest, FindsAnAbstractName) {
  name_ = "@nbdinetd-message-" + std::to_string(getpid());
  Start();
  MessageSocket socket(name_);
  EXPECT_TRUE(socket.Send("one"));
  EXPECT_EQ(daemon_->Take(), Messages{"one"});
}

TEST_F(MessageSocketTest, HasNobodyWhereNobodyListens) {
  for (const std::string& name :
       {std::string(), std::string("/"), std::string("relative"), name_,
        "/" + std::string(200, 'x')}) {
    MessageSocket socket(name);
    EXPECT_FALSE(socket.valid()) << name;
    EXPECT_FALSE(socket.Send("lost")) << name;
  }
  EXPECT_FALSE(MessageSocket().Send("lost"));
}

TEST_F(MessageSocketTest, FindsADaemonThatStartsLaterOrAnew) {
  MessageSocket socket(name_);
  EXPECT_FALSE(socket.Send("lost"));
  for (const char* message : {"one", "two"}) {
    daemon_.reset();
    Start();
    EXPECT_TRUE(socket.Send(message));
    EXPECT_EQ(daemon_->Take(), Messages{message});
  }
  daemon_.reset();
  EXPECT_FALSE(socket.Send("lost"));
}

TEST_F(MessageSocketTest, SpeaksToAStreamSocketAsSyslogDoes) {
  Start(SOCK_STREAM);
  EXPECT_FALSE(MessageSocket(name_).valid());
  MessageSocket socket(name_, MessageSocket::Kind::kDatagramOrStream);
  EXPECT_TRUE(socket.Send("one"));
  EXPECT_TRUE(socket.Send("two"));
  EXPECT_EQ(daemon_->Take(), Messages{std::string("one\0two\0", 8)});
  daemon_.reset();
  EXPECT_FALSE(socket.Send("lost"));
  Start(SOCK_STREAM);
  EXPECT_TRUE(socket.Send("three"));
  EXPECT_EQ(daemon_->Take(), Messages{std::string("three\0", 6)});
  // Then a daemon of the other kind.
  daemon_.reset();
  Start();
  EXPECT_TRUE(socket.Send("four"));
  EXPECT_EQ(daemon_->Take(), Messages{"four"});
}

// One that doesn't accept, either.
TEST_F(MessageSocketTest, IsNotHeldUpByADaemonThatDoesNotRead) {
  for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
    Start(type);
    const absl::Time start = SteadyNow();
    std::vector<std::unique_ptr<MessageSocket>> sockets;
    for (int i = 0; i < 2; ++i) {
      sockets.push_back(std::make_unique<MessageSocket>(
          name_, MessageSocket::Kind::kDatagramOrStream));
      if (!sockets.back()->valid()) break;
      const int sent = Fill(*sockets.back());
      EXPECT_TRUE(sent > 0 || i > 0);
      for (int lost = 0; lost < 100; ++lost)
        EXPECT_FALSE(sockets.back()->Send("lost"));
    }
    // Each waits once, for all of its hundred.
    EXPECT_LT(SteadyNow() - start, 25 * kMessagePatience);
    daemon_.reset();
  }
}

// The daemon reads once the sender sleeps.
TEST_F(MessageSocketTest, WaitsForADaemonThatReads) {
  Start();
  MessageSocket socket(name_);
  const int full = FillAtOnce();
  Messages taken;
  std::thread reader([&, sender = gettid()] {
    while (StateOf(sender) != 'S') std::this_thread::yield();
    taken = daemon_->Take();
  });
  EXPECT_TRUE(socket.Send("one"));
  reader.join();
  for (std::string& message : daemon_->Take())
    taken.push_back(std::move(message));
  EXPECT_EQ(taken.size(), static_cast<size_t>(full) + 1);
  EXPECT_EQ(taken.back(), "one");
}

// A daemon that takes only a message now and then isn't waited for each time.
TEST_F(MessageSocketTest, WaitsForASecondInAllAndNotForEachMessage) {
  Start();
  MessageSocket socket(name_);
  Fill(socket);
  const absl::Time start = SteadyNow();
  for (int i = 0; i < 30; ++i) {
    EXPECT_FALSE(daemon_->Take().empty());
    EXPECT_GT(Fill(socket), 0);
  }
  EXPECT_LT(SteadyNow() - start, 15 * kMessagePatience);
}

TEST_F(MessageSocketTest, LosesAMessageThatIsTooLongAndGoesOn) {
  Start();
  MessageSocket socket(name_);
  EXPECT_FALSE(socket.Send(std::string(64 << 20, 'x')));
  EXPECT_TRUE(socket.Send("one"));
  EXPECT_EQ(daemon_->Take(), Messages{"one"});
}

// Of a message that a stream socket has taken in part, the rest would be the
// beginning of the next.
TEST_F(MessageSocketTest, DoesNotMixMessagesInAStream) {
  Start(SOCK_STREAM);
  MessageSocket socket(name_, MessageSocket::Kind::kDatagramOrStream);
  EXPECT_FALSE(socket.Send(std::string(64 << 20, 'x')));
  EXPECT_FALSE(daemon_->Take().empty());  // the part
  EXPECT_TRUE(socket.Send("one"));
  EXPECT_EQ(daemon_->Take(), Messages{std::string("one\0", 4)});
  EXPECT_EQ(daemon_->connections(), 2);
}

}  // namespace
}  // namespace nbdinetd
