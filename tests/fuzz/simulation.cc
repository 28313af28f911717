#include "simulation.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

namespace nbdfuzz {
namespace {

thread_local Simulation* current = nullptr;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
// A server that hasn't come to an end after so many waits goes in circles: no
// input has that much to say.
constexpr int kMaxPolls = 200'000;

}  // namespace

Simulation::Simulation(const Input& input, std::string stream)
    : stream_(std::move(stream)),
      end_(static_cast<End>(input.settings[Input::kEnd] % 4)),
      receive_(input.tapes[Input::kReceive]),
      send_(input.tapes[Input::kSend]),
      storage_(input.tapes[Input::kStorage]),
      schedule_(input.tapes[Input::kSchedule]),
      shutdown_at_(input.settings[Input::kShutdown]) {
  current = this;
}

Simulation::~Simulation() { current = nullptr; }

Simulation* Simulation::Current() { return current; }

bool Simulation::Readable() const {
  if (now_ns_ < silent_until_ns_ || received_ == hold_at_) return false;
  return received_ < stream_.size() || end_ != End::kSilence;
}

ssize_t Simulation::Read(absl::Span<char> buffer) {
  Require(!aborted_, "the server reads from a connection that it has cut");
  Require(!buffer.empty(), "the server reads into an empty buffer");
  if (!Readable()) return -EAGAIN;
  const uint8_t decision = receive_.Next();
  size_t limit = std::numeric_limits<size_t>::max();
  if (decision >= 0xf8) {
    paused_ = true;
    silent_until_ns_ = now_ns_ + (kSecond << (decision - 0xf8)) / 4;
    return -EAGAIN;
  } else if (decision >= 0xf0) {
    return -EAGAIN;  // poll() was wrong
  } else if (decision >= 0x80) {
    limit = (decision - size_t{0x7f}) * 1000;
  } else if (decision > 0) {
    limit = decision;
  }
  if (received_ == stream_.size()) {
    switch (end_) {
      case End::kEof:
      case End::kSilence:
        return 0;
      case End::kReset:
        BreakSends();
        return -ECONNRESET;
      case End::kTimedOut:
        BreakSends();
        return -ETIMEDOUT;
    }
  }
  const size_t end = received_ < hold_at_ ? std::min(hold_at_, stream_.size())
                                          : stream_.size();
  const size_t n = std::min({limit, buffer.size(), end - received_});
  std::memcpy(buffer.data(), stream_.data() + received_, n);
  received_ += n;
  if (on_received) on_received(received_);
  return static_cast<ssize_t>(n);
}

ssize_t Simulation::SendLimit() {
  Require(!aborted_, "the server writes to a connection that it has cut");
  if (send_error_ != 0) return send_error_;
  const uint8_t decision = send_.Next();
  if (decision >= 0xf8) {
    constexpr int kErrors[] = {-EPIPE, -ECONNRESET, -ETIMEDOUT, -EHOSTUNREACH};
    return send_error_ = kErrors[decision % 4];
  } else if (decision >= 0xf0) {
    paused_ = true;
    stalled_until_ns_ = now_ns_ + (kSecond << (decision - 0xf0));
    return -EAGAIN;
  } else if (decision >= 0xe8) {
    return -EAGAIN;
  } else if (decision >= 0x80) {
    return (decision - 0x7f) * 1000;
  }
  return decision > 0 ? decision : std::numeric_limits<ssize_t>::max();
}

ssize_t Simulation::Write(absl::Span<const iovec> pieces) {
  const ssize_t allowed = SendLimit();
  if (allowed < 0) return allowed;
  const auto limit = static_cast<size_t>(allowed);
  std::string taken;
  for (const iovec& piece : pieces) {
    const size_t n = std::min(limit - taken.size(), piece.iov_len);
    taken.append(static_cast<const char*>(piece.iov_base), n);
  }
  Require(!taken.empty(), "the server sends nothing");
  if (received_ == hold_at_) hold_at_ = SIZE_MAX;
  if (on_sent) on_sent(taken);
  return static_cast<ssize_t>(taken.size());
}

ssize_t Simulation::SendFile(int file, uint64_t offset, size_t length) {
  Require(length > 0, "the server sends nothing of a file");
  const ssize_t allowed = SendLimit();
  if (allowed < 0) return allowed;
  constexpr size_t kMost = 1 << 20;
  std::string bytes(std::min({static_cast<size_t>(allowed), length, kMost}),
                    '\0');
  const ssize_t n =
      pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
  if (n <= 0) return n < 0 ? -errno : 0;
  if (on_sent)
    on_sent(std::string_view(bytes).substr(0, static_cast<size_t>(n)));
  return n;
}

void Simulation::Abort() {
  aborted_ = true;
  send_error_ = -EPIPE;
}

short Simulation::ReadyEvents(const pollfd& entry) {
  bool ready = false;
  switch (entry.fd) {
    case kInputFd:
      ready = Readable();
      break;
    case kOutputFd:
      if (hung_up()) {
        BreakSends();
        return static_cast<short>(POLLERR | POLLHUP | entry.events);
      }
      ready = now_ns_ >= stalled_until_ns_;
      break;
    case kShutdownFd:
      ready = shutdown_ && !signal_taken_;
      break;
    case kHolderFd:
      ready = holder_has_ended();
      break;
    default:
      Require(entry.fd < 0 || entry.fd == kWorkersFd,
              "the server waits for a descriptor that isn't its own");
  }
  return static_cast<short>(ready ? entry.events : 0);
}

int Simulation::Poll(pollfd* fds, size_t count, int timeout_ms) {
  Require(++polls_ < kMaxPolls, "the server goes in circles");
  if (shutdown_at_ != 0 && polls_ >= shutdown_at_) shutdown_ = true;
  const int64_t limit =
      timeout_ms < 0 ? kNever : now_ns_ + int64_t{timeout_ms} * 1'000'000;
  for (;;) {
    int ready = 0;
    for (size_t i = 0; i < count; ++i) {
      fds[i].revents = ReadyEvents(fds[i]);
      ready += fds[i].revents != 0;
    }
    for (size_t i = 0; i < count; ++i) {
      if (fds[i].fd == kWorkersFd && workers_ready &&
          workers_ready(ready > 0)) {
        fds[i].revents = fds[i].events;
        ++ready;
      }
    }
    if (ready > 0) return ready;
    int64_t next = limit;
    for (const int64_t change :
         {silent_until_ns_, stalled_until_ns_, holder_ends_ns_}) {
      if (change > now_ns_) next = std::min(next, change);
    }
    if (next == kNever && shutdown_at_ != 0 && !shutdown_) {
      shutdown_ = true;  // it comes sooner or later
      for (size_t i = 0; i < count; ++i) {
        if (fds[i].fd == kShutdownFd) {
          fds[i].revents = fds[i].events;
          return 1;
        }
      }
    }
    Require(next != kNever, "the server waits for what will never come");
    now_ns_ = next;
    if (now_ns_ >= limit) return 0;
  }
}

}  // namespace nbdfuzz

// What the linker puts in place of the calls; see --wrap in ld(1).
extern "C" {

int __real_poll(pollfd* fds, nfds_t count, int timeout_ms);
int __wrap_poll(pollfd* fds, nfds_t count, int timeout_ms) {
  nbdfuzz::Simulation* simulation = nbdfuzz::Simulation::Current();
  return simulation != nullptr ? simulation->Poll(fds, count, timeout_ms)
                               : __real_poll(fds, count, timeout_ms);
}

int __real_clock_gettime(clockid_t clock, timespec* now);
int __wrap_clock_gettime(clockid_t clock, timespec* now) {
  nbdfuzz::Simulation* simulation = nbdfuzz::Simulation::Current();
  if (simulation == nullptr) return __real_clock_gettime(clock, now);
  const int64_t ns = simulation->Now();
  now->tv_sec = ns / nbdfuzz::kSecond;
  now->tv_nsec = ns % nbdfuzz::kSecond;
  return 0;
}

int __real_sched_yield();
int __wrap_sched_yield() {
  return nbdfuzz::Simulation::Current() != nullptr ? 0 : __real_sched_yield();
}

}  // extern "C"
