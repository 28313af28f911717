#include "stream/channel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "base/poll.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// How long a peer that doesn't read its replies may hold up a shutdown.
constexpr absl::Duration kShutdownSendLimit = absl::Seconds(1);

// How often in a row spinning may find input before the other descriptors are
// looked at.
constexpr int kMaxWaitsUnpolled = 64;

}  // namespace

Channel::Channel(std::unique_ptr<Stream> stream, int shutdown_fd)
    : stream_(std::move(stream)),
      shutdown_fd_(shutdown_fd),
      last_progress_(SteadyNow()),
      buffer_(std::make_unique_for_overwrite<char[]>(kInputBytes)) {}

void Channel::NoteShutdown() {
  if (shutdown_requested_) return;
  shutdown_requested_ = true;
  shutdown_send_limit_ = SteadyNow() + kShutdownSendLimit;
}

Channel::Wake Channel::Wait(bool want_input, int workers_fd,
                            absl::Time deadline, Patience patience) {
  const bool has_input = want_input && stream_->has_input();
  // poll() ignores negative descriptors.
  pollfd fds[] = {
      {want_input ? stream_->input_fd() : -1, POLLIN, 0},
      {workers_fd, POLLIN, 0},
      {shutdown_requested_ ? -1 : shutdown_fd_, POLLIN, 0},
      {want_input && stream_->has_output() ? stream_->output_fd() : -1, POLLOUT,
       0},
  };
  const bool tell_shutdown = shutdown_requested_ && !shutdown_told_;
  const bool may_spin =
      patience != Patience::kSleep && want_input && !tell_shutdown;
  // A client that is always quick must not hide a shutdown.
  const bool ready = may_spin && ++waits_unpolled_ == kMaxWaitsUnpolled &&
                     PollUntil(absl::MakeSpan(fds), absl::InfinitePast()) != 0;
  if (waits_unpolled_ == kMaxWaitsUnpolled) waits_unpolled_ = 0;
  if (may_spin && !ready) {
    if (patience == Patience::kGatherFirst) spinner_.LetGather();
    if (spinner_.Try([this] {
          const Receipt receipt = ReceiveNow();
          if (receipt != Receipt::kNothing) received_ = receipt;
          return receipt != Receipt::kNothing;
        })) {
      return Wake::kInput;
    }
  }
  if (!ready) {
    PollUntil(absl::MakeSpan(fds), tell_shutdown || has_input
                                       ? absl::InfinitePast()
                                       : std::min(deadline, deadline_));
    if (may_spin) spinner_.NoteSlept();
    waits_unpolled_ = 0;
  }
  if (fds[2].revents != 0) NoteShutdown();
  if (fds[1].revents != 0) return Wake::kWorkers;
  if (shutdown_requested_ && !shutdown_told_) {
    shutdown_told_ = true;
    return Wake::kShutdown;
  }
  // A client that never stops sending must not hide that its time is over.
  if (deadline_ != absl::InfiniteFuture() && SteadyNow() >= deadline_) {
    return Wake::kTimeout;
  }
  return has_input || fds[0].revents != 0 || fds[3].revents != 0
             ? Wake::kInput
             : Wake::kTimeout;
}

Channel::Receipt Channel::Receive() {
  if (received_.has_value()) {
    const Receipt receipt = *received_;
    received_.reset();
    return receipt;
  }
  return ReceiveNow();
}

Channel::Receipt Channel::ReceiveNow() {
  // No room is not the end of the stream, which reading nothing looks like.
  if (input().size() == kInputBytes) return Receipt::kNothing;
  MakeRoomFor(input().size() + 1);
  const ssize_t n = stream_->Read(
      absl::MakeSpan(buffer_.get() + end_, kInputBytes - end_));
  if (n > 0) {
    end_ += static_cast<size_t>(n);
    last_progress_ = SteadyNow();
    return Receipt::kData;
  }
  if (n == 0) return Receipt::kEnd;
  if (n == -EAGAIN) return Receipt::kNothing;
  return n == -ETIMEDOUT ? Receipt::kTimedOut : Receipt::kReset;
}

void Channel::Consume(size_t n) {
  begin_ += n;
  if (begin_ == end_) begin_ = end_ = 0;
}

void Channel::MakeRoomFor(size_t n) {
  if (begin_ + n <= kInputBytes) return;
  std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
}

bool Channel::WaitWritable() {
  pollfd fds[] = {
      {stream_->output_fd(), POLLOUT, 0},
      {shutdown_requested_ ? -1 : shutdown_fd_, POLLIN, 0},
  };
  // A socket is writable once a good part of what it holds has been read: much
  // later than when a slow peer last read something.
  absl::optional<size_t> unread = stream_->unread_bytes();
  for (;;) {
    const absl::Time limit = std::min(deadline_, shutdown_send_limit_);
    if (PollUntil(absl::MakeSpan(fds),
                  std::min(SteadyNow() + stall_timeout_, limit)) != 0) {
      if (fds[1].revents != 0) NoteShutdown();
      return true;
    }
    const absl::optional<size_t> before =
        std::exchange(unread, stream_->unread_bytes());
    const bool has_read =
        before.has_value() && unread.has_value() && *unread < *before;
    if (!has_read || SteadyNow() >= limit) {
      send_timed_out_ = true;
      return false;
    }
  }
}

size_t Channel::SendFile(int file, uint64_t offset, size_t length) {
  size_t sent = 0;
  while (!broken_ && sent < length) {
    const ssize_t n = stream_->SendFile(file, offset + sent, length - sent);
    if (n > 0) {
      sent += static_cast<size_t>(n);
    } else if (n == -EAGAIN) {
      broken_ = !WaitWritable();
    } else {
      break;
    }
  }
  last_progress_ = SteadyNow();
  return sent;
}

bool Channel::Send(absl::Span<iovec> pieces, bool more) {
  while (!broken_ && !pieces.empty()) {
    if (pieces[0].iov_len == 0) {
      pieces.remove_prefix(1);
      continue;
    }
    const ssize_t n = stream_->Write(pieces, more);
    if (n < 0) {
      send_timed_out_ |= n == -ETIMEDOUT;
      broken_ = n != -EAGAIN || !WaitWritable();
      continue;
    }
    auto sent = static_cast<size_t>(n);
    while (sent > 0) {
      const size_t part = std::min(sent, pieces[0].iov_len);
      pieces[0].iov_base = static_cast<char*>(pieces[0].iov_base) + part;
      pieces[0].iov_len -= part;
      sent -= part;
      if (pieces[0].iov_len == 0) pieces.remove_prefix(1);
    }
  }
  last_progress_ = SteadyNow();
  return !broken_;
}

void Channel::Abort() {
  broken_ = true;
  stream_->Abort();
}

bool Channel::Send(absl::string_view bytes, bool more) {
  iovec piece = {const_cast<char*>(bytes.data()), bytes.size()};
  return Send(absl::MakeSpan(&piece, 1), more);
}

}  // namespace nbdinetd
