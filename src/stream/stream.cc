#include "stream/stream.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>

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

}  // namespace

ssize_t SocketStream::Read(absl::Span<char> buffer) {
  return Retry([&] {
    return recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  });
}

ssize_t SocketStream::Write(absl::Span<const iovec> pieces) {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  return Retry([&] {
    return sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  });
}

void SocketStream::Abort() { shutdown(socket_.get(), SHUT_RDWR); }

PipeStream::PipeStream(UniqueFd input, UniqueFd output)
    : input_(std::move(input)), output_(std::move(output)) {
  input_flags_ = MakeNonBlocking(input_.get());
  output_flags_ = MakeNonBlocking(output_.get());
}

PipeStream::~PipeStream() {
  if (input_flags_ >= 0) fcntl(input_.get(), F_SETFL, input_flags_);
  if (output_flags_ >= 0) fcntl(output_.get(), F_SETFL, output_flags_);
}

void PipeStream::Abort() {
  input_.Reset();
  output_.Reset();
}

ssize_t PipeStream::Read(absl::Span<char> buffer) {
  return Retry(
      [&] { return read(input_.get(), buffer.data(), buffer.size()); });
}

ssize_t PipeStream::Write(absl::Span<const iovec> pieces) {
  return Retry([&] {
    return writev(output_.get(), pieces.data(),
                  static_cast<int>(pieces.size()));
  });
}

}  // namespace nbdinetd
