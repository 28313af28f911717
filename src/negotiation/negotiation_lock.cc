// The part of Negotiation that locks the export that a client has chosen.
//
// It waits by trying again, at intervals that grow to kMaxPause, and not in
// fcntl(F_OFD_SETLKW): only a signal could end that before its time, which
// needs a thread to send it to and a handler; and read locks, which read-only
// exports have to use, can't be waited for in that way. What it costs is some
// twenty system calls a second, of a process that has ten seconds. A takeover
// is woken by the end of the process that it waits for.
#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "negotiation/negotiation.h"

namespace nbdinetd {
namespace {

// Between two attempts to get the lock.
constexpr absl::Duration kMinPause = absl::Milliseconds(1);
constexpr absl::Duration kMaxPause = absl::Milliseconds(50);

}  // namespace

Negotiation::NotLocked Negotiation::InUse(const std::string& name,
                                          absl::string_view sentence) {
  return {NBD_REP_ERR_POLICY,
          std::string(sentence),
          {ExitStatus::kUnavailable,
           absl::StrCat("export ", Quoted(name),
                        " is in use (exclusive): ", sentence)},
          /*over=*/false};
}

std::optional<Negotiation::NotLocked> Negotiation::WaitForHolder(
    int holder_fd, absl::Duration pause, const std::string& name) {
  // What a client sends that doesn't wait for the answer is kept, as far as
  // there is room for it.
  const Channel::Wake wake =
      channel_.Wait(/*want_input=*/true, holder_fd, SteadyNow() + pause);
  if (channel_.shutdown_requested()) {
    return NotLocked{NBD_REP_ERR_SHUTDOWN,
                     kShuttingDown,
                     {ExitStatus::kOk, kShuttingDown},
                     /*over=*/false};
  }
  switch (wake) {
    case Channel::Wake::kWorkers:
    case Channel::Wake::kShutdown:
      return std::nullopt;
    case Channel::Wake::kTimeout:
      if (SteadyNow() >= deadline_) {
        NotLocked late =
            InUse(name, absl::StrCat("another client has not left it within ",
                                     absl::FormatDuration(time_limit_)));
        late.over = true;
        return late;
      }
      return std::nullopt;
    case Channel::Wake::kInput:
      break;
  }
  const Channel::Receipt receipt = channel_.Receive();
  if (receipt == Channel::Receipt::kData ||
      receipt == Channel::Receipt::kNothing) {
    return std::nullopt;
  }
  NotLocked gone = InUse(name, "the client left while it waited");
  gone.over = true;
  return gone;
}

std::optional<Negotiation::NotLocked> Negotiation::LockExport(
    const Export& target, const std::string& name) {
  if (exclusive_ == Exclusive::kOff) return std::nullopt;
  ExclusiveLock lock(target);
  for (absl::Duration pause = kMinPause;;
       pause = std::min(2 * pause, kMaxPause)) {
    const absl::StatusOr<bool> locked = lock.Try();
    if (!locked.ok()) {
      return NotLocked{NBD_REP_ERR_PLATFORM,
                       "the export can't be locked",
                       {ExitStatus::kSystem,
                        absl::StrCat("failed to lock export ", Quoted(name),
                                     ": ", locked.status().message())},
                       /*over=*/true};
    }
    if (*locked) return std::nullopt;
    absl::Status asked;
    if (exclusive_ == Exclusive::kTakeover) asked = lock.AskHolder();
    if (exclusive_ == Exclusive::kRefuse || !asked.ok()) {
      in_use_ = name;
      return InUse(name, exclusive_ == Exclusive::kRefuse
                             ? "another client uses it, and must leave first"
                             : asked.message());
    }
    if (std::optional<NotLocked> refusal =
            WaitForHolder(lock.holder_fd(), pause, name)) {
      return refusal;
    }
  }
}

// A client that was refused an export, and then does nothing but leave, has
// come for nothing: that is no success.
void Negotiation::NoteInUse() {
  if (!in_use_.has_value() || !ending_.has_value() ||
      ending_->status != ExitStatus::kOk || channel_.shutdown_requested()) {
    return;
  }
  End(ExitStatus::kUnavailable,
      absl::StrCat("export ", Quoted(*in_use_), " is in use (exclusive), and ",
                   ending_->reason));
}

}  // namespace nbdinetd
