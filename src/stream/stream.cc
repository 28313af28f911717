#include "stream/stream.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/limits.h"
#include "base/poll.h"

namespace nbdinetd {
namespace {

// Repeats a system call after EINTR. Returns its result, or -errno.
template <typename Call>
ssize_t Retry(Call call) {
  ssize_t n;
  do {
    n = call();
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

// True if a call for `events` wouldn't wait.
bool IsReady(int fd, short events) {
  pollfd entry = {fd, events, 0};
  return PollUntil(absl::MakeSpan(&entry, 1), absl::InfinitePast()) != 0;
}

// True for a pipe without a name. A FIFO that is opened anew after its writers
// have closed waits for the next writer, and doesn't report the end.
bool IsAnonymousPipe(int fd) {
  struct statfs st;
  return fstatfs(fd, &st) == 0 &&
         static_cast<uint64_t>(st.f_type) == PIPEFS_MAGIC;
}

// The send buffer of a Unix socket. With the default of 208 KiB, a writer that
// has filled it sleeps until three quarters of it are read, and a peer on
// another processor reads the last quarter before the writer has woken up. TCP
// grows its buffers by itself while no program sets their size.
constexpr int kUnixSendBufferBytes = 512 << 10;

// SOCK_SNDBUF_LOCK of SO_BUF_LOCK (Linux 5.14), which some C libraries' headers
// lack.
constexpr int kSendBufferLocked = 1;

void GrowSendBuffer(int fd) {
  // A size that was set before, as by SendBuffer= in a .socket unit, is kept.
  int locked = 0;
  socklen_t length = sizeof(locked);
  if (getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &locked, &length) == 0 &&
      (locked & kSendBufferLocked) != 0) {
    return;
  }
  // SO_SNDBUFFORCE needs CAP_NET_ADMIN; SO_SNDBUF is limited by
  // net.core.wmem_max.
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kUnixSendBufferBytes,
                 sizeof(kUnixSendBufferBytes)) != 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kUnixSendBufferBytes,
               sizeof(kUnixSendBufferBytes));
  }
}

// The most that one sendfile() sends, so that signals and deadlines are checked
// while a slow peer reads it.
constexpr size_t kSendFileBytes = 1 << 20;

bool SetShortestSendTimeout(int fd) {
  const timeval timeout = {0, 1};  // rounded up to a tick of the kernel
  return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) ==
         0;
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
  sends_files_ = SetShortestSendTimeout(socket_.get());
}

SocketStream::~SocketStream() {
  End();
  SetNonBlocking(false);
}

void SocketStream::SetNonBlocking(bool on) {
  if (on == made_non_blocking_) return;
  const int flags = fcntl(socket_.get(), F_GETFL);
  if (flags < 0 || (on && (flags & O_NONBLOCK) != 0)) return;
  if (fcntl(socket_.get(), F_SETFL,
            on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0) {
    made_non_blocking_ = on;
  }
}

ssize_t SocketStream::Read(absl::Span<char> buffer) {
  return Retry([&] {
    return recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  });
}

// Sends one piece at a time by send(). sendmsg() could pass descriptors to the
// peer of a Unix socket, and a seccomp filter couldn't see that. Several pieces
// are rare, and TCP sends them together anyway (MSG_MORE).
ssize_t SocketStream::Write(absl::Span<const iovec> pieces, bool more) {
  const int flags =
      MSG_DONTWAIT | MSG_NOSIGNAL | (more || pieces.size() > 1 ? MSG_MORE : 0);
  return Retry([&] {
    return send(socket_.get(), pieces[0].iov_base, pieces[0].iov_len, flags);
  });
}

ssize_t SocketStream::SendFile(int file, uint64_t offset, size_t length) {
  return Retry([&] {
    auto position = static_cast<off_t>(offset);
    return sendfile(socket_.get(), file, &position,
                    std::min(length, kSendFileBytes));
  });
}

std::optional<size_t> SocketStream::unread_bytes() const {
  int bytes;
  if (ioctl(socket_.get(), SIOCOUTQ, &bytes) != 0) return std::nullopt;
  return static_cast<size_t>(bytes);
}

std::optional<uint64_t> SocketStream::acknowledged_bytes() const {
  tcp_info info = {};
  socklen_t length = sizeof(info);
  if (getsockopt(socket_.get(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
      length < offsetof(tcp_info, tcpi_bytes_acked) +
                   sizeof(info.tcpi_bytes_acked)) {
    return std::nullopt;
  }
  return info.tcpi_bytes_acked;
}

size_t SocketStream::held_bytes() const {
  return is_unix_ ? kUnixSendBufferBytes : kTcpHeldBytes;
}

void SocketStream::Abort() {
  aborted_ = true;
  SetNonBlocking(false);
  shutdown(socket_.get(), SHUT_RDWR);
}

void SocketStream::End() {
  if (aborted_ || shutdown(socket_.get(), SHUT_WR) != 0) return;
  // TCP resets a connection that is closed with unread data, or that receives
  // data which no process will read. A reset discards bytes that are on their
  // way to the peer. Unread data is therefore discarded first, and receiving is
  // shut down only if the peer's machine has acknowledged everything.
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

PipeStream::End PipeStream::Take(UniqueFd pipe, int access) {
  const int flags = fcntl(pipe.get(), F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) return {std::move(pipe), false};
  if (IsAnonymousPipe(pipe.get())) {
    UniqueFd anew(open(absl::StrCat("/proc/self/fd/", pipe.get()).c_str(),
                       access | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (anew.valid()) return {std::move(anew), false};
  }
  return {std::move(pipe), true};
}

PipeStream::PipeStream(UniqueFd input, UniqueFd output)
    : input_(Take(std::move(input), O_RDONLY)),
      output_(Take(std::move(output), O_WRONLY)) {}

void PipeStream::Abort() {
  input_.fd.Reset();
  output_.fd.Reset();
}

ssize_t PipeStream::Read(absl::Span<char> buffer) {
  // The sandbox allows read() and write() on these two descriptors only, and
  // not on -1.
  if (!input_.fd.valid()) return -ECONNABORTED;
  if (input_.waits && !IsReady(input_fd(), POLLIN)) return -EAGAIN;
  return Retry([&] { return read(input_fd(), buffer.data(), buffer.size()); });
}

ssize_t PipeStream::Write(absl::Span<const iovec> pieces, bool) {
  if (!output_.fd.valid()) return -EPIPE;
  if (!output_.waits) {
    return Retry([&] {
      return writev(output_fd(), pieces.data(),
                    static_cast<int>(pieces.size()));
    });
  }
  if (!IsReady(output_fd(), POLLOUT)) return -EAGAIN;
  return Retry([&] {
    return write(output_fd(), pieces[0].iov_base,
                 std::min<size_t>(pieces[0].iov_len, PIPE_BUF));
  });
}

}  // namespace nbdinetd
