#include "transmission/transmission.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/page_size.h"
#include "base/steady_clock.h"
#include "protocol/nbd_error.h"

namespace nbdinetd {
namespace {

// A payload longer than kPieceBytes is written in pieces no smaller than this,
// which end on a page of the file, so that no page is written twice.
constexpr size_t kMinWritePiece = 64 << 10;

// From this length on a read is sent from the page cache. Below, a system call
// of its own costs more than copying into the output buffer.
constexpr uint64_t kMinSendFile = 128 << 10;

}  // namespace

Transmission::Transmission(Channel& channel, const Negotiated& negotiated,
                           const Timeouts& timeouts, const Log& log,
                           Statistics& statistics, Progress& progress,
                           UniqueFd event_fd)
    : channel_(channel),
      negotiated_(negotiated),
      target_(*negotiated.target),
      timeouts_(timeouts),
      log_(log),
      statistics_(statistics),
      progress_(progress),
      replies_(channel, negotiated.style, statistics),
      workers_(target_, std::move(event_fd)) {}

Ending Transmission::Run() {
  for (;;) {
    // In this order: a task that is taken back may be what the requests that
    // are in the input already have been waiting for.
    HandleFinished();
    const uint64_t requests_before = statistics_.requests;
    HandleInput();
    if (!replies_.Flush()) OnUnsentReplies();
    if (Over()) return Finish();
    const absl::Time limit = WaitLimit();
    const Channel::Events events = channel_.Wait({
        .input = WantInput(),
        .other_fd = workers_.event_fd(),
        .deadline =
            std::min({limit, progress_.Tell(), workers_.RelieveReads()}),
        .patience = PatienceAfter(statistics_.requests - requests_before),
    });
    if (channel_.send_timed_out()) {
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
  // Something else may wake us.
  if (workers_.pending() > 0) return Channel::Patience::kSleep;
  return requests > 1 ? Channel::Patience::kGatherFirst
                      : Channel::Patience::kPoll;
}

bool Transmission::WantInput() const {
  const bool write_waits = write_.has_value() && write_->waits;
  return !ending_.has_value() && !workers_.full() && !write_waits;
}

bool Transmission::WritesHaveToWait() const {
  return target_.writes_busy() && workers_.pending() > 0;
}

bool Transmission::InMessage() const {
  return write_.has_value() || !channel_.input().empty();
}

absl::Time Transmission::ShutdownLimit() const {
  return channel_.shutdown_since() + kShutdownLimit;
}

// When the peer has had its time, as things stand.
absl::Time Transmission::WaitLimit() const {
  if (!WantInput()) return absl::InfiniteFuture();
  if (channel_.shutdown_requested()) {
    if (workers_.pending() > 0) return absl::InfiniteFuture();
    const absl::Time quiet_since =
        std::max(channel_.shutdown_since(), channel_.last_progress());
    return std::min(quiet_since + kShutdownIdle, ShutdownLimit());
  }
  if (InMessage()) return channel_.last_progress() + channel_.stall_timeout();
  return workers_.pending() > 0 ? absl::InfiniteFuture()
                                : channel_.last_progress() + timeouts_.idle;
}

void Transmission::OnTimeLimit() {
  if (channel_.shutdown_requested()) {
    End(ExitStatus::kOk, "the server is shutting down");
  } else if (InMessage()) {
    End(ExitStatus::kTimedOut,
        absl::StrCat("client stopped inside a request for ",
                     absl::FormatDuration(channel_.stall_timeout())));
  } else {
    End(ExitStatus::kTimedOut,
        absl::StrCat("client was idle for ",
                     absl::FormatDuration(timeouts_.idle)));
  }
}

void Transmission::OnUnsentReplies() {
  workers_.DropReads();
  if (channel_.shutdown_requested()) {
    End(ExitStatus::kOk, "the server is shutting down");
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
  if (!ending_.has_value()) ending_ = Ending{status, std::move(reason)};
}

bool Transmission::Over() const {
  return ending_.has_value() && workers_.pending() == 0;
}

Ending Transmission::Finish() {
  // On a shutdown nobody will ask for a flush any more.
  if (channel_.shutdown_requested() && !target_.facts().read_only) {
    if (const int error = FinalFlush()) {
      return {ExitStatus::kSystem,
              absl::StrCat("the final flush failed: ", ErrnoText(error))};
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
  switch (channel_.Receive()) {
    case Channel::Receipt::kData:
      break;
    case Channel::Receipt::kNothing:
      // TLS has messages of its own: who sends those only is as silent.
      if (SteadyNow() >= WaitLimit()) OnTimeLimit();
      break;
    case Channel::Receipt::kEnd:
      if (InMessage()) {
        End(ExitStatus::kProtocol, "client vanished inside a request");
      } else {
        End(ExitStatus::kOk, "client closed the connection");
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
    // A client that never stops asking, or sending, is never waited for.
    if (channel_.shutdown_requested() && SteadyNow() >= ShutdownLimit()) {
      End(ExitStatus::kOk, "the server is shutting down");
      return;
    }
    const bool progress =
        write_.has_value() ? ContinueWrite(*write_) : HandleHeader();
    if (!progress) return;
  }
}

// Takes one request's header from the input and starts the request. False when
// there is none, or when it has to wait.
bool Transmission::HandleHeader() {
  if (workers_.full()) return false;
  if (channel_.input().size() < kRequestHeaderBytes) {
    channel_.MakeRoomFor(kRequestHeaderBytes);
    return false;
  }
  const std::optional<Request> request =
      DecodeRequest(channel_.input().substr(0, kRequestHeaderBytes));
  if (!request.has_value()) {
    End(ExitStatus::kProtocol,
        "client broke the protocol: wrong request magic");
    return false;
  }
  channel_.Consume(kRequestHeaderBytes);
  ++statistics_.requests;
  if (log_.verbose()) {
    log_.Debug(absl::StrCat(CommandName(request->type), " (", request->type,
                            ") flags=", request->flags, " offset=",
                            request->offset, " length=", request->length));
  }
  if (request->type == NBD_CMD_DISC) {
    End(ExitStatus::kOk, "client disconnected");
    return false;
  }
  const Verdict verdict =
      channel_.shutdown_requested()
          ? Verdict{NBD_ESHUTDOWN, "the server is shutting down"}
          : ValidateRequest(*request, negotiated_.promises);
  if (PayloadBytes(*request) > 0) {
    write_ = PendingWrite{*request, 0, false, verdict.error, verdict.sentence};
  } else if (verdict.error != NBD_SUCCESS) {
    replies_.Error(*request, verdict.error, verdict.sentence);
  } else if (request->type == NBD_CMD_READ) {
    StartRead(*request);
  } else {
    StartTask(*request);
  }
  return true;
}

bool Transmission::ContinueWrite(PendingWrite& write) {
  const uint64_t left = write.request.length - write.consumed;
  if (write.error != NBD_SUCCESS) {
    const size_t part = std::min<uint64_t>(left, channel_.input().size());
    channel_.Consume(part);
    write.consumed += part;
  } else if (write.request.length <= kPieceBytes) {
    return WriteWhole(write);
  } else if (!WritePiece(write)) {
    return false;
  }
  if (write.consumed < write.request.length) return !channel_.input().empty();
  FinishWrite(write);
  return true;
}

// A write that fits into the input buffer: written at once, when all of it is
// there.
bool Transmission::WriteWhole(PendingWrite& write) {
  const Request request = write.request;
  const auto length = static_cast<size_t>(request.length);
  if (channel_.input().size() < length) {
    channel_.MakeRoomFor(length);
    return false;
  }
  const absl::Span<const char> payload(channel_.input().data(), length);
  // Durability waits for the storage, and so does a write to a part of a page
  // that has to be read first.
  if (request.has(NBD_CMD_FLAG_FUA) ||
      target_.WriteWouldWait(request.offset, request.length)) {
    StartTask(request, payload);
    channel_.Consume(length);
    write_.reset();
    return true;
  }
  if (const int error =
          target_.Write(request.offset, payload, /*durable=*/false)) {
    Fail(request, error, request.offset);
  } else {
    statistics_.bytes_written += length;
    replies_.Success(request);
  }
  channel_.Consume(length);
  write_.reset();
  return true;
}

// Part of a longer write; false when more of it should be received first.
bool Transmission::WritePiece(PendingWrite& write) {
  write.waits = WritesHaveToWait();
  if (write.waits) return false;
  const uint64_t left = write.request.length - write.consumed;
  const uint64_t offset = write.request.offset + write.consumed;
  size_t piece = std::min<uint64_t>(
      {left, channel_.input().size(), uint64_t{kPieceBytes}});
  if (piece < left) {
    piece -= std::min<uint64_t>(piece, (offset + piece) % PageBytes());
    if (piece < kMinWritePiece) {
      channel_.MakeRoomFor(kPieceBytes);
      return false;
    }
  }
  if (const int error = target_.Write(offset, {channel_.input().data(), piece},
                                      /*durable=*/false)) {
    LogStorageError(write.request, error);
    write.error = NbdErrorOf(error);
    write.sentence = FailureSentence(write.request, error);
  }
  channel_.Consume(piece);
  write.consumed += piece;
  return true;
}

void Transmission::FinishWrite(const PendingWrite& write) {
  if (write.error != NBD_SUCCESS) {
    replies_.Error(write.request, write.error, write.sentence);
  } else if (write.request.has(NBD_CMD_FLAG_FUA)) {
    StartTask(write.request);
  } else {
    statistics_.bytes_written += write.request.length;
    replies_.Success(write.request);
  }
  write_.reset();
}

void Transmission::StartRead(const Request& request) {
  if (request.length == 0) {
    replies_.Success(request);
    return;
  }
  if (channel_.sends_files() && request.length >= kMinSendFile &&
      target_.IsCached(request.offset, request.length)) {
    SendOneChunk(request, /*as_file=*/true);
    return;
  }
  if (request.length <= kPieceBytes) {
    const auto length = static_cast<size_t>(request.length);
    char* data = replies_.ReserveData(length);
    if (target_.ReadCached(request.offset, {data, length}) == length) {
      replies_.CommitData(request, request.offset, length, /*done=*/true);
    } else {
      StartTask(request);
    }
    return;
  }
  if (replies_.encoder().fragments(request)) {
    const uint64_t end = request.offset + request.length;
    const uint64_t sent_to = SendCachedFragments(request, request.offset);
    if (sent_to == end) return;
    Request rest = request;
    rest.offset = sent_to;
    rest.length = end - sent_to;
    StartTask(rest);
    return;
  }
  // Once the header of the one chunk is out, all replies behind it wait for its
  // last byte; so it must be certain that none of them has to be read first.
  if (target_.IsCached(request.offset, request.length)) {
    SendOneChunk(request);
  } else {
    StartTask(request);
  }
}

void Transmission::StartTask(const Request& request,
                             std::optional<absl::Span<const char>> payload) {
  auto task = std::make_unique<Task>(workers_.buffers());
  task->request = request;
  if (request.type == NBD_CMD_READ && task->has_data()) {
    // Asks the storage, and doesn't wait.
    task->begun = target_.Prefetch(request.offset, request.length) == 0;
  }
  if (payload.has_value()) {
    task->carries_payload = true;
    task->data = workers_.buffers().Take(payload->size());
    if (task->data == nullptr) {
      Fail(request, ENOMEM, request.offset);
      return;
    }
    std::memcpy(task->data.get(), payload->data(), payload->size());
  }
  // To wake a worker and be woken takes longer than most block statuses, and
  // there is nobody else yet whom this one could hold up.
  if (request.type == NBD_CMD_BLOCK_STATUS && block_status_is_quick_ &&
      !target_.finding_extents_may_sync() && workers_.pending() == 0 &&
      channel_.input().empty()) {
    task->started = SteadyNow();
    RunTask(target_, *task);
    AnswerTask(*task);
  } else if (const auto run_at_once = workers_.Start(std::move(task))) {
    AnswerTask(*run_at_once);
  }
}

}  // namespace nbdinetd
