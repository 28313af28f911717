#include "stream/stream.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>

#include "base/limits.h"

namespace nbdinetd {
namespace {

// Runs a system call until no signal interrupts it; its result, or -errno.
template <typename Call>
ssize_t Retry(Call call) {
  ssize_t n;
  do {
    n = call();
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

// Returns the flags from before, or -1.
int MakeNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) == 0) {
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  }
  return flags;
}

// What a Unix socket holds that the peer hasn't read yet: by default 208 KiB,
// and a writer that has filled it sleeps until three quarters of that are read.
// A peer on another processor then reads the last quarter before the writer has
// woken up. TCP grows its buffers by itself, as long as nobody sets them.
constexpr int kUnixSendBufferBytes = 512 << 10;

// Of SO_BUF_LOCK (Linux 5.14), newer than some C library's headers.
constexpr int kSendBufferLocked = 1;

void GrowSendBuffer(int fd) {
  // Whoever made the socket, such as SendBuffer= in a
  // .socket unit, has chosen a size.
  int locked = 0;
  socklen_t length = sizeof(locked);
  if (getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &locked, &length) == 0 &&
      (locked & kSendBufferLocked) != 0) {
    return;
  }
  // The first needs a capability; the second goes as far as net.core.wmem_max.
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kUnixSendBufferBytes,
                 sizeof(kUnixSendBufferBytes)) != 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kUnixSendBufferBytes,
               sizeof(kUnixSendBufferBytes));
  }
}

}  // namespace

bool IsUnixSocket(int fd) {
  int domain = 0;
  socklen_t length = sizeof(domain);
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
         domain == AF_UNIX;
}

ssize_t Stream::SendFile(int, uint64_t, size_t) { return -EOPNOTSUPP; }

SocketStream::SocketStream(UniqueFd socket)
    : socket_(std::move(socket)), is_unix_(IsUnixSocket(socket_.get())) {
  if (is_unix_) GrowSendBuffer(socket_.get());
}

SocketStream::~SocketStream() {
  End();
  if (blocking_flags_ >= 0) fcntl(socket_.get(), F_SETFL, blocking_flags_);
}

ssize_t SocketStream::Read(absl::Span<char> buffer) {
  return Retry([&] {
    return recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  });
}

// One piece at a time, by send(): what sendmsg() would do besides, passing
// descriptors to the peer of a Unix socket, a filter of system calls couldn't see.
// Several pieces are rare, and TCP sends them together all the same.
ssize_t SocketStream::Write(absl::Span<const iovec> pieces, bool more) {
  const int flags = MSG_DONTWAIT | MSG_NOSIGNAL |
                    (more || pieces.size() > 1 ? MSG_MORE : 0);
  return Retry([&] {
    return send(socket_.get(), pieces[0].iov_base, pieces[0].iov_len, flags);
  });
}

ssize_t SocketStream::SendFile(int file, uint64_t offset, size_t length) {
  if (blocking_flags_ < 0) blocking_flags_ = MakeNonBlocking(socket_.get());
  return Retry([&] {
    auto position = static_cast<off_t>(offset);
    return sendfile(socket_.get(), file, &position, length);
  });
}

absl::optional<size_t> SocketStream::unread_bytes() const {
  int bytes;
  if (ioctl(socket_.get(), SIOCOUTQ, &bytes) != 0) return absl::nullopt;
  return static_cast<size_t>(bytes);
}

absl::optional<uint64_t> SocketStream::acknowledged_bytes() const {
  tcp_info info = {};
  socklen_t length = sizeof(info);
  if (getsockopt(socket_.get(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
      length < offsetof(tcp_info, tcpi_bytes_acked) +
                   sizeof(info.tcpi_bytes_acked)) {
    return absl::nullopt;
  }
  return info.tcpi_bytes_acked;
}

void SocketStream::Abort() {
  aborted_ = true;
  shutdown(socket_.get(), SHUT_RDWR);
}

void SocketStream::End() {
  if (aborted_ || shutdown(socket_.get(), SHUT_WR) != 0) return;
  // TCP resets a connection on which data arrives that nobody will read, or that
  // is closed with unread data; and a reset takes along what is still on its way
  // to the peer. So what is there is read away, and no more is let in only when
  // the peer's machine has all that it was sent.
  char unread[16 << 10];
  size_t discarded = 0;
  while (discarded < kMaxDiscardedBytes) {
    const ssize_t n = Read(absl::MakeSpan(unread));
    if (n <= 0) break;
    discarded += static_cast<size_t>(n);
  }
  if (is_unix_ || unread_bytes().value_or(0) == 0) {
    shutdown(socket_.get(), SHUT_RD);
  }
}

PipeStream::PipeStream(UniqueFd input, UniqueFd output)
    : input_(std::move(input)), output_(std::move(output)) {
  input_flags_ = MakeNonBlocking(input_.get());
  output_flags_ = MakeNonBlocking(output_.get());
}

PipeStream::~PipeStream() { Abort(); }

// Once only: the sandbox knows the two by their numbers, and no -1.
void PipeStream::Abort() {
  if (!input_.valid()) return;
  if (input_flags_ >= 0) fcntl(input_.get(), F_SETFL, input_flags_);
  if (output_flags_ >= 0) fcntl(output_.get(), F_SETFL, output_flags_);
  input_.Reset();
  output_.Reset();
}

ssize_t PipeStream::Read(absl::Span<char> buffer) {
  if (!input_.valid()) return -ECONNABORTED;
  return Retry(
      [&] { return read(input_.get(), buffer.data(), buffer.size()); });
}

ssize_t PipeStream::Write(absl::Span<const iovec> pieces, bool) {
  if (!output_.valid()) return -EPIPE;
  return Retry([&] {
    return writev(output_.get(), pieces.data(),
                  static_cast<int>(pieces.size()));
  });
}

}  // namespace nbdinetd
