#include "stream/channel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/limits.h"
#include "base/poll.h"
#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// Consecutive waits that may end by spinning before the other descriptors are
// polled. Without a limit, a client that is always quick would hide a shutdown.
constexpr int kMaxWaitsUnpolled = 64;

// Where poll() shows room late, unread bytes are also checked: first at this
// interval, later after an eighth of the time waited, and never after the last
// of these times. A connection whose send buffer holds less than the bytes on a
// long way would otherwise send nothing until a third of the buffer is
// acknowledged, in each round trip.
constexpr absl::Duration kRoomInterval = absl::Milliseconds(2);
constexpr int kRoomLooks = 8;
constexpr absl::Duration kLastRoomLook = absl::Seconds(1);

// The room for which sending goes on. With less, each system call would send
// little.
constexpr size_t kRoomBytes = 128 << 10;

// True for a negated errno that means: the peer's machine hasn't answered for
// too long. The last ICMP error of a router replaces ETIMEDOUT (tcp_write_err()
// in the kernel).
bool IsTimeout(ssize_t result) {
  switch (-result) {
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case ENONET:
      return true;
    default:
      return false;
  }
}

}  // namespace

Channel::Channel(std::unique_ptr<Stream> stream, int shutdown_fd,
                 absl::Duration stall_timeout, ServiceManager* manager,
                 std::function<Shutdown()> told)
    : stream_(std::move(stream)),
      shutdown_fd_(shutdown_fd),
      manager_(manager),
      told_(std::move(told)),
      last_progress_(SteadyNow()),
      last_receipt_(last_progress_),
      stall_watch_(stall_timeout),
      buffer_(std::make_unique_for_overwrite<char[]>(kInputBytes)) {}

absl::Time Channel::HandshakeLimit() const {
  if (!handshake_deadline_.has_value()) return absl::InfiniteFuture();
  return std::min(*handshake_deadline_, shutdown_since_ + kShutdownGrace);
}

pollfd Channel::ShutdownEntry() const {
  return {shutdown_requested() && !drains_ ? -1 : shutdown_fd_, POLLIN, 0};
}

void Channel::NoteSignal() {
  const Shutdown told = told_ == nullptr ? Shutdown::kNow : told_();
  if (told == Shutdown::kNone || (told == Shutdown::kDrain && drains_)) return;
  shutdown_since_ = SteadyNow();
  drains_ = told == Shutdown::kDrain;
  RestartShutdownLimit();
}

absl::Time Channel::ShutdownLimit() const {
  return drains_ ? drain_from_ + kDrainPatience
                 : shutdown_since_ + kShutdownLimit;
}

void Channel::RestartShutdownLimit() {
  if (drains_) drain_from_ = SteadyNow();
}

void Channel::LookForShutdown() {
  pollfd fd = ShutdownEntry();
  const bool is_ready = Poll(absl::MakeSpan(&fd, 1), absl::InfinitePast()) != 0;
  // A wait outside of the channel may have taken the signal.
  const bool may_be_taken =
      (!shutdown_requested() || drains_) && told_ != nullptr;
  if (is_ready || may_be_taken) NoteSignal();
}

void Channel::NoteSent() {
  last_progress_ = SteadyNow();
  if (!in_handshake()) stall_watch_.NoteSent(*stream_, last_progress_);
}

void Channel::PollPeer(absl::Span<pollfd> fds, absl::Time deadline) {
  deadline = std::min(deadline, HandshakeLimit());
  for (;;) {
    // A broken connection is not looked at again.
    const absl::Time look =
        in_handshake() || broken_ ? absl::InfiniteFuture() : stall_watch_.due();
    const int ready = Poll(fds, std::min(deadline, look));
    if (look == absl::InfiniteFuture()) return;
    if (stall_watch_.Look(*stream_)) {
      send_timed_out_ = broken_ = true;
      return;
    }
    if (ready != 0 || look >= deadline) return;
  }
}

int Channel::Poll(absl::Span<pollfd> fds, absl::Time deadline) {
  return manager_ == nullptr ? PollUntil(fds, deadline)
                             : manager_->PollUntil(fds, deadline);
}

void Channel::WaitForReadable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  Poll(absl::MakeSpan(&entry, 1), absl::InfiniteFuture());
}

struct Channel::Watched {
  enum Which { kInput, kOther, kShutdown, kOutput, kCount };

  bool happened(Which which) const { return fds[which].revents != 0; }

  pollfd fds[kCount];  // poll() ignores those with a negative descriptor
  bool output_first;   // kOutput is for output; otherwise for a hang-up
  bool wants_input;
  bool has_input;  // whatever poll() returns
};

Channel::Watched Channel::Watch(const Interest& interest) {
  const bool wants_input = interest.input && input().size() < kInputBytes;
  // Input that can't be read yet would end each wait at once.
  const bool output_first = wants_input && stream_->has_output();
  if (output_first) {
    stall_watch_.NoteBlocked(*stream_);
  } else {
    stall_watch_.NoteUnblocked();
  }
  const bool input = wants_input && !output_first;
  // poll() reports POLLHUP and POLLERR whatever it is asked for.
  const bool hang_up = !interest.input && !broken_;
  return {.fds = {{input ? stream_->input_fd() : -1, POLLIN, 0},
                  {interest.other_fd, POLLIN, 0},
                  ShutdownEntry(),
                  {output_first || hang_up ? stream_->output_fd() : -1,
                   static_cast<short>(output_first ? POLLOUT : 0), 0}},
          .output_first = output_first,
          .wants_input = input,
          .has_input = input && stream_->has_input()};
}

Channel::Events Channel::Wait(const Interest& interest) {
  KeepAlive();
  Watched watched = Watch(interest);
  const bool spins =
      interest.patience != Patience::kSleep && watched.wants_input;
  const bool ready = spins && ReadyAfterSpins(watched);
  if (spins && !ready && SpinForInput(interest.patience)) {
    return {.input = true};
  }
  if (!ready) {
    PollPeer(absl::MakeSpan(watched.fds),
             watched.has_input ? absl::InfinitePast() : interest.deadline);
    if (spins) spinner_.NoteSlept();
    waits_unpolled_ = 0;
  }
  return EventsOf(watched);
}

bool Channel::ReadyAfterSpins(Watched& watched) {
  if (++waits_unpolled_ < kMaxWaitsUnpolled) return false;
  waits_unpolled_ = 0;
  return Poll(absl::MakeSpan(watched.fds), absl::InfinitePast()) != 0;
}

bool Channel::SpinForInput(Patience patience) {
  if (patience == Patience::kGatherFirst) spinner_.LetGather();
  return spinner_.Try([this] {
    const Receipt receipt = ReceiveNow();
    if (receipt == Receipt::kNothing) return false;
    received_ = receipt;
    return true;
  });
}

Channel::Events Channel::EventsOf(const Watched& watched) {
  const bool output =
      watched.output_first && watched.happened(Watched::kOutput);
  if (output) stall_watch_.NoteUnblocked();
  const bool signal = watched.happened(Watched::kShutdown);
  if (signal) NoteSignal();
  Events events;
  events.input =
      watched.has_input || watched.happened(Watched::kInput) || output;
  events.gone = !watched.output_first && watched.happened(Watched::kOutput);
  broken_ |= events.gone;
  events.shutdown = signal && shutdown_requested();
  events.other =
      watched.happened(Watched::kOther) || (signal && !events.shutdown);
  // Also checked when there is input, so that a client that never stops sending
  // can't exceed its time.
  events.timeout =
      send_timed_out_ || (in_handshake() && SteadyNow() >= HandshakeLimit()) ||
      !(events.input || events.other || events.shutdown || events.gone);
  return events;
}

Channel::Receipt Channel::Receive(size_t at_most) {
  if (received_.has_value()) {
    const Receipt receipt = *received_;
    received_.reset();
    return receipt;
  }
  return ReceiveNow(at_most);
}

Channel::Receipt Channel::ReceiveNow(size_t at_most) {
  // Without room, Read() would return 0, which means the end of the stream.
  if (input().size() == kInputBytes) return Receipt::kNothing;
  MakeRoomFor(input().size() + 1);
  const ssize_t n = stream_->Read(absl::MakeSpan(
      buffer_.get() + end_, std::min(kInputBytes - end_, at_most)));
  if (n > 0) {
    end_ += static_cast<size_t>(n);
    last_progress_ = last_receipt_ = SteadyNow();
    return Receipt::kData;
  }
  if (n == 0) return Receipt::kEnd;
  if (n == -EAGAIN) return Receipt::kNothing;
  return IsTimeout(n) ? Receipt::kTimedOut : Receipt::kReset;
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
      ShutdownEntry(),
  };
  stall_watch_.RestartBlocked(*stream_);
  bool room, signal;
  do {
    room = PollForRoom(absl::MakeSpan(fds), ShutdownLimit());
    signal = fds[1].revents != 0;
    if (signal) NoteSignal();
    // A signal that is no shutdown gives the peer no more time.
  } while (signal && !shutdown_requested() && fds[0].revents == 0 && !room);
  stall_watch_.NoteUnblocked();
  if (!room && fds[0].revents == 0 && !signal) send_timed_out_ = true;
  return !send_timed_out_;
}

bool Channel::PollForRoom(absl::Span<pollfd> fds, absl::Time deadline) {
  deadline = std::min(deadline, HandshakeLimit());
  const size_t before =
      stream_->shows_room_late() ? stream_->unread_bytes().value_or(0) : 0;
  const absl::Time start = SteadyNow();
  for (absl::Time now = start;
       before > kRoomBytes && now < start + kLastRoomLook; now = SteadyNow()) {
    const absl::Time look =
        now + std::max(kRoomInterval, (now - start) / kRoomLooks);
    if (look >= deadline) break;
    PollPeer(fds, look);
    if (SteadyNow() < look || send_timed_out_) return false;
    const size_t unread = stream_->unread_bytes().value_or(before);
    if (unread <= before - kRoomBytes) return true;
  }
  PollPeer(fds, deadline);
  return false;
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
  NoteSent();
  return sent;
}

bool Channel::Send(absl::Span<iovec> pieces, bool more) {
  KeepAlive();
  while (!broken_ && !pieces.empty()) {
    if (pieces[0].iov_len == 0) {
      pieces.remove_prefix(1);
      continue;
    }
    const ssize_t n = stream_->Write(pieces, more);
    if (n < 0) {
      vanished_ |= IsTimeout(n);
      send_timed_out_ |= vanished_;
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
  NoteSent();
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
