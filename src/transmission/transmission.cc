#include "transmission/transmission.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "protocol/request.h"

namespace nbdinetd {
namespace {

constexpr char kShuttingDown[] = "the server is shutting down";
constexpr char kDrained[] = "the connection has been drained";

}  // namespace

Transmission::Transmission(TransmissionSetup setup)
    : channel_(setup.channel),
      negotiated_(setup.negotiated),
      decoder_(negotiated_.promises.headers,
               negotiated_.promises.block_sizes.advertised_payload),
      target_(*setup.negotiated.target),
      idle_timeout_(setup.idle_timeout),
      log_(setup.log),
      statistics_(setup.statistics),
      progress_(setup.progress),
      limits_(setup.limits),
      limit_changes_(limits_ == nullptr ? 0 : limits_->changes),
      pacer_(LimitsNow()),
      replies_(channel_, negotiated_.style, statistics_, &pacer_),
      workers_(
          target_, [this] { LookBetweenPieces(); }, std::move(setup.event_fd)),
      failures_(target_, replies_, log_),
      reads_(target_, replies_, failures_,
             negotiated_.promises.block_sizes.advertised_payload),
      deferred_(workers_, target_, replies_, reads_, failures_),
      writes_(channel_, target_, replies_, failures_, deferred_) {}

Ending Transmission::Run() {
  for (;;) {
    // In this order: received requests may wait for one of the finished tasks.
    deferred_.AnswerFinished();
    if (channel_.drains() && !draining_) BeginDrain();
    if (limits_ != nullptr && limits_->changes != limit_changes_)
      ChangeLimits();
    const uint64_t requests_before = statistics_.requests;
    absl::Time release;
    bool was_full;
    do {
      HandleInput();
      was_full = pacer_.full();
      release = ReleaseHeld();
    } while (was_full && !pacer_.full());
    EndDrain();
    if (!replies_.Flush()) OnUnsentReplies();
    if (Over()) return Finish();
    // A send may have taken a signal.
    if (HoldsAnew()) continue;
    const absl::Time limit = WaitLimit();
    const Channel::Events events = channel_.Wait({
        .input = WantInput(),
        .other_fd = workers_.event_fd(),
        .deadline = std::min({limit, release, progress_.Tell(),
                              workers_.RelieveReads(), CutShortTasks()}),
        .patience = PatienceAfter(statistics_.requests - requests_before),
    });
    if (events.other) channel_.RestartShutdownLimit();
    if (events.gone || channel_.send_timed_out()) {
      OnUnsentReplies();
    } else if (events.timeout) {
      // One of the other deadlines may have passed.
      if (SteadyNow() >= limit) OnTimeLimit();
    } else if (events.input) {
      OnInput();
    }
  }
}

Channel::Patience Transmission::PatienceAfter(uint64_t requests) const {
  // A worker may wake this thread, which spinning would delay.
  // In a drain, spinning would receive more than the rest of a message.
  if (workers_.pending() > 0 || draining_) return Channel::Patience::kSleep;
  return requests > 1 ? Channel::Patience::kGatherFirst
                      : Channel::Patience::kPoll;
}

bool Transmission::WantInput() const {
  return !ending_.has_value() && !workers_.full() && !pacer_.full();
}

bool Transmission::OwesReplies() const {
  return workers_.pending() > 0 || !pacer_.empty();
}

bool Transmission::InMessage() const {
  return writes_.under_way() || !channel_.input().empty();
}

void Transmission::BeginDrain() {
  pacer_.Change(TransferLimits(), SteadyNow());
  // What has been received comes first: it may have waited for a worker.
  HandleInput();
  if (WantInput()) OnInput();
  draining_ = true;
}

void Transmission::EndDrain() {
  if (draining_ && !InMessage()) End(ExitStatus::kOk, kDrained);
}

size_t Transmission::ReceiveLimit() const {
  if (!draining_) return kInputBytes;
  const size_t bytes = channel_.input().size();
  const size_t header = decoder_.header_bytes();
  const uint64_t message = writes_.under_way() ? writes_.bytes_left()
                           : bytes < header    ? header
                                               : header + kStatusPayloadBytes;
  return message > bytes ? message - bytes : kInputBytes;
}

absl::Time Transmission::CutShortTasks() {
  if (!channel_.shutdown_requested()) return absl::InfiniteFuture();
  const absl::Time limit =
      channel_.shutdown_since() +
      (channel_.drains() ? kDrainPatience : kShutdownLimit);
  if (SteadyNow() < limit) return limit;
  if (channel_.drains()) deferred_.LeaveCutShort();
  workers_.CutShort();
  return absl::InfiniteFuture();
}

void Transmission::LookBetweenPieces() {
  const Channel::Events events =
      channel_.Wait({.input = false, .deadline = absl::InfinitePast()});
  if (events.gone || channel_.send_timed_out()) OnUnsentReplies();
  CutShortTasks();
}

// The time at which the peer has exceeded the limit that applies now.
absl::Time Transmission::WaitLimit() const {
  if (!WantInput()) return absl::InfiniteFuture();
  if (channel_.shutdown_requested()) {
    if (OwesReplies()) return absl::InfiniteFuture();
    if (channel_.drains()) return channel_.ShutdownLimit();
    const absl::Time quiet_since =
        std::max(channel_.shutdown_since(), channel_.last_progress());
    return std::min(quiet_since + kShutdownIdle, channel_.ShutdownLimit());
  }
  if (InMessage()) return channel_.last_progress() + channel_.stall_timeout();
  return OwesReplies() ? absl::InfiniteFuture()
                       : channel_.last_progress() + idle_timeout_;
}

void Transmission::OnTimeLimit() {
  if (channel_.shutdown_requested()) {
    End(ExitStatus::kOk, draining_ ? kDrained : kShuttingDown);
  } else if (InMessage()) {
    End(ExitStatus::kTimedOut,
        absl::StrCat("client stopped inside a request for ",
                     absl::FormatDuration(channel_.stall_timeout())));
  } else {
    End(ExitStatus::kTimedOut,
        absl::StrCat("client was idle for ",
                     absl::FormatDuration(idle_timeout_)));
  }
}

void Transmission::OnUnsentReplies() {
  workers_.DropReads();
  DropHeld();
  // It could have closed its direction alone, and could still have read them.
  if (std::exchange(closed_by_client_, false)) ending_.reset();
  if (reads_.broke_off()) {
    End(ExitStatus::kSystem, "a read failed in the middle of its reply");
  } else if (channel_.shutdown_requested()) {
    End(ExitStatus::kOk, draining_ ? kDrained : kShuttingDown);
  } else if (channel_.unacknowledged()) {
    End(ExitStatus::kTimedOut,
        absl::StrCat("client vanished: the connection timed out, nothing was "
                     "acknowledged for ",
                     absl::FormatDuration(channel_.stall_timeout())));
  } else if (channel_.vanished()) {
    End(ExitStatus::kTimedOut, "client vanished: the connection timed out");
  } else if (channel_.send_timed_out()) {
    End(ExitStatus::kTimedOut,
        absl::StrCat("client read no replies for ",
                     absl::FormatDuration(channel_.stall_timeout())));
  } else {
    End(ExitStatus::kProtocol, "client left without reading its replies");
  }
}

void Transmission::End(ExitStatus status, std::string reason) {
  if (ending_.has_value()) return;
  // After a disconnect by NBD_CMD_DISC, and while the client may still read,
  // all outstanding requests are carried out.
  if (status != ExitStatus::kOk) workers_.CutShort();
  ending_ = Ending{status, std::move(reason)};
}

bool Transmission::Over() const {
  return ending_.has_value() && !OwesReplies();
}

Ending Transmission::Finish() {
  // After a shutdown, the client can send no more flush.
  if (channel_.shutdown_requested() && !target_.facts().read_only) {
    if (const int error = FinalFlush()) {
      return {ExitStatus::kSystem,
              absl::StrCat("the final flush failed: ", ErrnoText(error)),
              message_id::kFailedFlush};
    }
  }
  return *std::move(ending_);
}

int Transmission::FinalFlush() {
  auto task = std::make_unique<Task>(workers_.buffers());
  task->request.type = NBD_CMD_FLUSH;
  std::unique_ptr<Task> done = workers_.Start(std::move(task));
  while (done == nullptr) {
    channel_.WaitForReadable(workers_.event_fd());
    for (std::unique_ptr<Task>& finished : workers_.TakeFinished()) {
      done = std::move(finished);
    }
  }
  return done->error.number;
}

void Transmission::OnInput() {
  switch (channel_.Receive(ReceiveLimit())) {
    case Channel::Receipt::kData:
      break;
    case Channel::Receipt::kNothing:
      // Messages of TLS itself are no requests: the client is idle.
      if (SteadyNow() >= WaitLimit()) OnTimeLimit();
      break;
    case Channel::Receipt::kEnd:
      if (InMessage()) {
        End(ExitStatus::kProtocol, "client vanished inside a request");
      } else {
        End(ExitStatus::kOk, "client closed the connection");
        closed_by_client_ = true;
      }
      break;
    case Channel::Receipt::kTimedOut:
      End(ExitStatus::kTimedOut, "client vanished: the connection timed out");
      break;
    case Channel::Receipt::kReset:
      End(ExitStatus::kProtocol,
          channel_.failure().empty()
              ? "client vanished: the connection was reset"
              : channel_.failure());
      break;
  }
}

void Transmission::HandleInput() {
  while (!ending_.has_value() && replies_.ok()) {
    // The loop never waits for a client that never stops sending.
    if (channel_.shutdown_requested() &&
        SteadyNow() >= channel_.ShutdownLimit()) {
      End(ExitStatus::kOk, draining_ ? kDrained : kShuttingDown);
      return;
    }
    const bool progress =
        writes_.under_way() ? writes_.Continue() : HandleHeader();
    if (!progress) return;
  }
}

bool Transmission::HandleHeader() {
  if (workers_.full() || pacer_.full()) return false;
  size_t bytes = decoder_.header_bytes();
  if (!HasInput(bytes)) return false;
  std::optional<Request> request =
      decoder_.Decode(channel_.input().substr(0, bytes));
  if (!request.has_value()) {
    End(ExitStatus::kProtocol,
        "client broke the protocol: wrong request magic");
    return false;
  }
  const Request as_sent = *request;
  if (HasStatusPayload(*request, negotiated_.promises)) {
    const size_t header_bytes =
        std::exchange(bytes, bytes + kStatusPayloadBytes);
    if (!HasInput(bytes)) return false;
    request = TakeStatusPayload(
        *request, channel_.input().substr(header_bytes, kStatusPayloadBytes));
  }
  channel_.Consume(bytes);
  if (log_.verbose()) {
    log_.Debug(absl::StrCat(CommandName(as_sent.type), " (", as_sent.type,
                            ") flags=", as_sent.flags, " offset=",
                            as_sent.offset, " length=", as_sent.length));
  }
  if (request->type == NBD_CMD_DISC) {
    End(ExitStatus::kOk, "client disconnected");
    return false;
  }
  if (decoder_.ExceedsPayloadLimit(*request)) {
    End(ExitStatus::kProtocol,
        "client broke the protocol: a payload is longer than the maximum "
        "payload size");
    return false;
  }
  ++statistics_.requests;
  request->received = channel_.last_receipt();
  StartRequest(*request);
  return true;
}

bool Transmission::HasInput(size_t bytes) {
  if (channel_.input().size() >= bytes) return true;
  channel_.MakeRoomFor(bytes);
  return false;
}

Verdict Transmission::VerdictOn(const Request& request) const {
  return channel_.shutdown_requested() && !channel_.drains()
             ? Verdict{NBD_ESHUTDOWN, kShuttingDown}
             : ValidateRequest(request, negotiated_.promises);
}

void Transmission::StartRequest(const Request& request) {
  if (PayloadBytes(request) > 0) {
    writes_.Begin(request, VerdictOn(request));
  } else if (pacer_.limits() && Pacer::Holds(request.type)) {
    pacer_.Hold({request});
  } else {
    CarryOut(request);
  }
}

void Transmission::CarryOut(const Request& request) {
  const Verdict verdict = VerdictOn(request);
  if (verdict.error != NBD_SUCCESS) {
    replies_.Error(request, verdict.error, verdict.sentence);
  } else if (request.type == NBD_CMD_READ) {
    if (const std::optional<Request> rest = reads_.AnswerCached(request)) {
      deferred_.Start(*rest);
    }
  } else if (request.type == NBD_CMD_BLOCK_STATUS) {
    deferred_.StartBlockStatus(request, /*is_last=*/channel_.input().empty());
  } else {
    deferred_.Start(request);
  }
}

TransferLimits Transmission::LimitsNow() const {
  return Replaced(limits_ == nullptr ? TransferLimits() : limits_->now,
                  negotiated_.limits);
}

void Transmission::ChangeLimits() {
  limit_changes_ = limits_->changes;
  if (!draining_) pacer_.Change(LimitsNow(), SteadyNow());
}

void Transmission::DropHeld() {
  while (pacer_.TakeAny().has_value()) {
  }
}

void Transmission::Go(const Pacer::Held& held) {
  if (held.request.type == NBD_CMD_WRITE) {
    replies_.Send(held);
  } else {
    CarryOut(held.request);
  }
}

absl::Time Transmission::ReleaseHeld() {
  if (pacer_.empty()) return absl::InfiniteFuture();
  if (!replies_.ok()) {
    DropHeld();
    return absl::InfiniteFuture();
  }
  // In a shutdown, the verdict on what hasn't started is NBD_ESHUTDOWN. In a
  // drain, all is due, and waits for workers only.
  if (channel_.shutdown_requested() && !channel_.drains()) {
    while (const std::optional<Pacer::Held> held = pacer_.TakeAny()) Go(*held);
    return absl::InfiniteFuture();
  }
  const absl::Time now = SteadyNow();
  // Without a free worker, replies still go out. One that is done wakes the
  // loop.
  while (const std::optional<Pacer::Held> due =
             pacer_.TakeDue(now, /*can_start=*/!workers_.full())) {
    Go(*due);
  }
  return pacer_.next(now, /*can_start=*/!workers_.full());
}

bool Transmission::HoldsAnew() const {
  return (limits_ != nullptr && limits_->changes != limit_changes_) ||
         (channel_.shutdown_requested() && !channel_.drains() &&
          !pacer_.empty()) ||
         (channel_.drains() && !draining_);
}

}  // namespace nbdinetd
