#include "stream/stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

iovec Piece(std::string& bytes) { return {bytes.data(), bytes.size()}; }

ssize_t Write(Stream& stream, std::string bytes) {
  const iovec piece = Piece(bytes);
  return stream.Write(absl::MakeConstSpan(&piece, 1));
}

// What one read gives, or "-ERRNO".
std::string Read(Stream& stream, size_t size = 4096) {
  std::string buffer(size, '\0');
  const ssize_t n = stream.Read(absl::MakeSpan(buffer.data(), buffer.size()));
  return n < 0 ? std::to_string(n) : buffer.substr(0, static_cast<size_t>(n));
}

const std::string kAgain = std::to_string(-EAGAIN);

class SocketStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    peer_.Reset(fds[0]);
    // Blocking, as a superserver hands it over.
    stream_ = std::make_unique<SocketStream>(UniqueFd(fds[1]));
  }
  UniqueFd peer_;
  std::unique_ptr<SocketStream> stream_;
};

TEST_F(SocketStreamTest, ReadsAndWritesTheSocket) {
  ASSERT_EQ(write(peer_.get(), "abc", 3), 3);
  EXPECT_EQ(Read(*stream_, 2), "ab");
  EXPECT_EQ(Read(*stream_), "c");
  std::string a = "de", b = "f";
  iovec pieces[] = {Piece(a), Piece(b)};
  size_t written = 0;
  for (absl::Span<iovec> rest = absl::MakeSpan(pieces); !rest.empty();) {
    const ssize_t n = stream_->Write(rest);
    ASSERT_GT(n, 0);
    written += static_cast<size_t>(n);
    ASSERT_EQ(static_cast<size_t>(n), rest[0].iov_len);  // a piece at a time
    rest.remove_prefix(1);
  }
  EXPECT_EQ(written, 3u);
  char received[8];
  ASSERT_EQ(read(peer_.get(), received, sizeof(received)), 3);
  EXPECT_EQ(std::string(received, 3), "def");
}

// TCP holds an unfinished packet for 200 ms; where this thread wasn't let run
// in that time, the packets say nothing.
TEST(TcpStreamTest, SendsSeveralPiecesInOnePacket) {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length),
            0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address),
                        &length),
            0);
  const UniqueFd peer(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(peer.get(), reinterpret_cast<sockaddr*>(&address), length),
            0);
  UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const int on = 1;
  ASSERT_EQ(
      setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)),
      0);
  SocketStream stream(std::move(connection));
  EXPECT_TRUE(stream.shows_room_late());
  const auto packets = [&stream] {
    tcp_info info = {};
    socklen_t size = sizeof(info);
    getsockopt(stream.output_fd(), IPPROTO_TCP, TCP_INFO, &info, &size);
    return info.tcpi_data_segs_out;
  };
  absl::Time start;
  uint32_t before;
  do {
    start = SteadyNow();
    before = packets();
    std::string a = "abc", b = "de";
    const iovec pieces[] = {Piece(a), Piece(b)};
    ASSERT_EQ(stream.Write(pieces), 3);
    ASSERT_EQ(stream.Write(absl::MakeConstSpan(pieces).subspan(1)), 2);
  } while (SteadyNow() - start > absl::Milliseconds(100));
  EXPECT_EQ(packets() - before, 1u);
}

TEST_F(SocketStreamTest, DoesNotWaitForInput) {
  EXPECT_EQ(Read(*stream_), kAgain);
}

TEST_F(SocketStreamTest, DoesNotWaitForRoom) {
  const std::string block(1 << 16, 'x');
  ssize_t n;
  size_t blocks = 0;
  while ((n = Write(*stream_, block)) > 0) ASSERT_LT(++blocks, 10000u);
  EXPECT_EQ(n, -EAGAIN);
}

TEST_F(SocketStreamTest, LeavesTheSocketsFlagsAlone) {
  Read(*stream_);
  EXPECT_EQ(fcntl(stream_->input_fd(), F_GETFL) & O_NONBLOCK, 0);
}

// A file in memory with these bytes.
UniqueFd File(const std::string& bytes) {
  UniqueFd file(memfd_create("file", MFD_CLOEXEC));
  EXPECT_EQ(write(file.get(), bytes.data(), bytes.size()),
            static_cast<ssize_t>(bytes.size()));
  return file;
}

TEST_F(SocketStreamTest, SendsAFilesBytes) {
  ASSERT_TRUE(stream_->sends_files());
  const UniqueFd file = File("0123456789");
  EXPECT_EQ(stream_->SendFile(file.get(), 2, 5), 5);
  char received[16];
  ASSERT_EQ(read(peer_.get(), received, sizeof(received)), 5);
  EXPECT_EQ(std::string(received, 5), "23456");
  // No further than the file goes.
  EXPECT_EQ(stream_->SendFile(file.get(), 8, 5), 2);
  EXPECT_EQ(stream_->SendFile(file.get(), 10, 5), 0);
}

TEST_F(SocketStreamTest, SendingAFileDoesNotWaitForRoom) {
  const UniqueFd file = File(std::string(1 << 20, 'x'));
  ssize_t n;
  size_t calls = 0;
  while ((n = stream_->SendFile(file.get(), 0, 1 << 20)) > 0) {
    ASSERT_LT(++calls, 10000u);
  }
  EXPECT_EQ(n, -EAGAIN);
}

TEST_F(SocketStreamTest, SendingAFileToAPeerThatIsGoneIsAnError) {
  signal(SIGPIPE, SIG_IGN);
  const UniqueFd file = File("abc");
  peer_.Reset();
  EXPECT_EQ(stream_->SendFile(file.get(), 0, 3), -EPIPE);
}

// The holder of a duplicate of a descriptor shares its file status flags.
TEST_F(SocketStreamTest, LeavesTheSocketsFlagsAloneWhenItSendsFiles) {
  const UniqueFd shared(dup(stream_->input_fd()));
  const UniqueFd file = File(std::string(1 << 20, 'x'));
  while (stream_->SendFile(file.get(), 0, 1 << 20) > 0) {
  }
  EXPECT_EQ(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
  stream_.reset();
  EXPECT_EQ(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(SocketStreamTest, TakesNonBlockingBackAtEachEnd) {
  const UniqueFd shared(dup(stream_->input_fd()));
  const auto blocks = [&] {
    return (fcntl(shared.get(), F_GETFL) & O_NONBLOCK) == 0;
  };
  stream_->SetNonBlocking(true);
  EXPECT_FALSE(blocks());
  stream_->SetNonBlocking(false);
  EXPECT_TRUE(blocks());
  stream_->SetNonBlocking(true);
  stream_->Abort();
  EXPECT_TRUE(blocks());
  // Of another process's making in between.
  fcntl(shared.get(), F_SETFL, fcntl(shared.get(), F_GETFL) | O_NONBLOCK);
  stream_.reset();
  EXPECT_FALSE(blocks());
}

TEST_F(SocketStreamTest, TakesNonBlockingBackWhenItIsDestroyed) {
  const UniqueFd shared(dup(stream_->input_fd()));
  stream_->SetNonBlocking(true);
  stream_.reset();
  EXPECT_EQ(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(SocketStreamTest, LeavesASocketNonBlockingThatWasSo) {
  const UniqueFd shared(dup(stream_->input_fd()));
  fcntl(shared.get(), F_SETFL, fcntl(shared.get(), F_GETFL) | O_NONBLOCK);
  stream_->SetNonBlocking(true);
  stream_->SetNonBlocking(false);
  EXPECT_NE(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
  stream_.reset();
  EXPECT_NE(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(SocketStreamTest, TellsHowMuchThePeerHasNotRead) {
  EXPECT_FALSE(stream_->shows_room_late());
  EXPECT_EQ(stream_->unread_bytes(), 0u);
  ASSERT_EQ(Write(*stream_, std::string(5000, 'x')), 5000);
  ASSERT_EQ(Write(*stream_, std::string(5000, 'x')), 5000);
  const std::optional<size_t> unread = stream_->unread_bytes();
  ASSERT_TRUE(unread.has_value());
  EXPECT_GE(*unread, 10000u);
  char received[5000];
  ASSERT_EQ(read(peer_.get(), received, sizeof(received)), 5000);
  ASSERT_TRUE(stream_->unread_bytes().has_value());
  EXPECT_LT(*stream_->unread_bytes(), *unread);
}

int SendBuffer(int fd) {
  int bytes = 0;
  socklen_t length = sizeof(bytes);
  getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &length);
  return bytes;
}

TEST_F(SocketStreamTest, MakesTheSendBufferLarger) {
  EXPECT_GT(SendBuffer(stream_->output_fd()), SendBuffer(peer_.get()));
}

TEST_F(SocketStreamTest, LeavesASendBufferAloneThatSomebodyHasSet) {
  const int wanted = 16384;
  ASSERT_EQ(
      setsockopt(peer_.get(), SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted)),
      0);
  const int set = SendBuffer(peer_.get());
  SocketStream other(std::move(peer_));
  EXPECT_EQ(SendBuffer(other.output_fd()), set);
}

TEST_F(SocketStreamTest, TellsTheEndOfTheStream) {
  ASSERT_EQ(write(peer_.get(), "abc", 3), 3);
  peer_.Reset();
  EXPECT_EQ(Read(*stream_), "abc");
  EXPECT_EQ(Read(*stream_), "");
}

// The signal's default action would end the test program, too.
TEST_F(SocketStreamTest, APeerThatIsGoneIsAnErrorAndNoSignal) {
  signal(SIGPIPE, SIG_DFL);
  peer_.Reset();
  EXPECT_EQ(Write(*stream_, "abc"), -EPIPE);
}

TEST_F(SocketStreamTest, ItsEndIsOneForThePeerWhoeverHoldsADuplicate) {
  const UniqueFd shared(dup(stream_->input_fd()));
  ASSERT_EQ(Write(*stream_, "bye"), 3);
  ASSERT_EQ(write(peer_.get(), "unread", 6), 6);
  stream_.reset();
  char bytes[8];
  EXPECT_EQ(recv(peer_.get(), bytes, sizeof(bytes), MSG_DONTWAIT), 3);
  EXPECT_EQ(recv(peer_.get(), bytes, sizeof(bytes), MSG_DONTWAIT), 0);
  EXPECT_EQ(send(peer_.get(), "x", 1, MSG_NOSIGNAL), -1);
}

TEST_F(SocketStreamTest, UnreadInputIsNoErrorForThePeer) {
  ASSERT_EQ(Write(*stream_, "bye"), 3);
  ASSERT_EQ(write(peer_.get(), "unread", 6), 6);
  stream_.reset();
  char bytes[8];
  EXPECT_EQ(recv(peer_.get(), bytes, sizeof(bytes), MSG_DONTWAIT), 3);
  // Not ECONNRESET, as when it is closed with that.
  EXPECT_EQ(recv(peer_.get(), bytes, sizeof(bytes), MSG_DONTWAIT), 0);
}

TEST_F(SocketStreamTest, AnAbortIsTheEndAtOnce) {
  const UniqueFd shared(dup(stream_->input_fd()));
  stream_->Abort();
  char byte;
  EXPECT_EQ(recv(peer_.get(), &byte, 1, MSG_DONTWAIT), 0);
}

// The first is opened anew. The second isn't, since it has a name; nor could it
// be without a /proc, or of another user.
enum class PipeKind { kAnonymous, kNamed };

class PipeStreamTest : public testing::TestWithParam<PipeKind> {
 protected:
  void SetUp() override {
    Ends in, out;
    Make(&in);
    Make(&out);
    // The other holders of the two ends.
    shared_input_.Reset(fcntl(in.read.get(), F_DUPFD_CLOEXEC, 0));
    shared_output_.Reset(fcntl(out.write.get(), F_DUPFD_CLOEXEC, 0));
    to_stream_ = std::move(in.write);
    from_stream_ = std::move(out.read);
    stream_ =
        std::make_unique<PipeStream>(std::move(in.read), std::move(out.write));
    signal(SIGPIPE, SIG_IGN);
  }

  bool AreBlocking() const {
    return (fcntl(shared_input_.get(), F_GETFL) & O_NONBLOCK) == 0 &&
           (fcntl(shared_output_.get(), F_GETFL) & O_NONBLOCK) == 0;
  }

  UniqueFd shared_input_, shared_output_;
  UniqueFd to_stream_, from_stream_;
  std::unique_ptr<PipeStream> stream_;

 private:
  struct Ends {
    UniqueFd read, write;
  };
  static void Make(Ends* ends) {
    if (GetParam() == PipeKind::kAnonymous) {
      int fds[2];
      ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
      ends->read.Reset(fds[0]);
      ends->write.Reset(fds[1]);
      return;
    }
    char folder[] = "/tmp/nbdinetd-fifo-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    const std::string path = std::string(folder) + "/fifo";
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    ends->read.Reset(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    ends->write.Reset(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    fcntl(ends->read.get(), F_SETFL, 0);
    unlink(path.c_str());
    rmdir(folder);
  }
};
INSTANTIATE_TEST_SUITE_P(Kind, PipeStreamTest,
                         testing::Values(PipeKind::kAnonymous,
                                         PipeKind::kNamed));

TEST_P(PipeStreamTest, ReadsOneAndWritesTheOther) {
  ASSERT_EQ(write(to_stream_.get(), "abc", 3), 3);
  EXPECT_EQ(Read(*stream_), "abc");
  ASSERT_EQ(Write(*stream_, "def"), 3);
  char received[8];
  ASSERT_EQ(read(from_stream_.get(), received, sizeof(received)), 3);
  EXPECT_EQ(std::string(received, 3), "def");
  EXPECT_NE(stream_->input_fd(), stream_->output_fd());
}

TEST_P(PipeStreamTest, WritesPiecesInOrder) {
  std::string a(5000, 'a'), b = "b";
  std::vector<iovec> pieces = {Piece(a), Piece(b)};
  absl::Span<iovec> rest = absl::MakeSpan(pieces);
  while (!rest.empty()) {
    const ssize_t n = stream_->Write(rest);
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
  std::string received(5001, '\0');
  ASSERT_EQ(read(from_stream_.get(), received.data(), received.size()), 5001);
  EXPECT_EQ(received, a + b);
}

TEST_P(PipeStreamTest, DoesNotWait) {
  EXPECT_EQ(Read(*stream_), kAgain);
  for (const size_t size : {size_t{1} << 16, size_t{1}, size_t{4095}}) {
    const std::string block(size, 'x');
    ssize_t n;
    size_t blocks = 0;
    while ((n = Write(*stream_, block)) > 0) ASSERT_LT(++blocks, 100000u);
    EXPECT_EQ(n, -EAGAIN);
    std::string received(100, '\0');
    ASSERT_EQ(read(from_stream_.get(), received.data(), received.size()), 100);
  }
}

TEST_P(PipeStreamTest, TellsTheEndOfTheStream) {
  ASSERT_EQ(write(to_stream_.get(), "abc", 3), 3);
  to_stream_.Reset();
  EXPECT_EQ(Read(*stream_), "abc");
  EXPECT_EQ(Read(*stream_), "");
}

TEST_P(PipeStreamTest, APeerThatIsGoneIsAnError) {
  from_stream_.Reset();
  EXPECT_EQ(Write(*stream_, "abc"), -EPIPE);
}

TEST_P(PipeStreamTest, ItsEndIsOneForThePeer) {
  shared_output_.Reset();
  stream_.reset();
  char byte;
  EXPECT_EQ(read(from_stream_.get(), &byte, 1), 0);
}

// A shell that shares the pipe would not expect that its own reads fail with
// EAGAIN.
TEST_P(PipeStreamTest, LeavesTheFlagsOfTheOtherHoldersAlone) {
  EXPECT_TRUE(AreBlocking());
  ASSERT_EQ(write(to_stream_.get(), "abc", 3), 3);
  EXPECT_EQ(Read(*stream_), "abc");
  ASSERT_EQ(Write(*stream_, "def"), 3);
  EXPECT_TRUE(AreBlocking());
  stream_->Abort();
  EXPECT_TRUE(AreBlocking());
  stream_.reset();
  EXPECT_TRUE(AreBlocking());
}

}  // namespace
}  // namespace nbdinetd
