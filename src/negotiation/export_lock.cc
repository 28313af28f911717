#include "negotiation/export_lock.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "export/base_lock.h"
#include "export/coherence.h"
#include "export/exclusive.h"
#include "export/image_lock.h"

namespace nbdinetd {
namespace {

// Between two attempts to get the lock.
constexpr absl::Duration kMinPause = absl::Milliseconds(1);
constexpr absl::Duration kMaxPause = absl::Milliseconds(50);

Refusal InUse(const std::string& name, absl::string_view sentence,
              bool ends_connection = false) {
  return {NBD_REP_ERR_POLICY,
          std::string(sentence),
          {ExitStatus::kUnavailable,
           absl::StrCat("export ", Quoted(name),
                        " is in use (exclusive): ", sentence)},
          ends_connection};
}

Refusal OutOfReach(const std::string& name, const Export& target) {
  return {NBD_REP_ERR_POLICY,
          "other hosts could use the export at the same time, and the server "
          "can't keep them out",
          {ExitStatus::kUnavailable,
           absl::StrCat("export ", Quoted(name),
                        " isn't served (--exclusive-scope=cluster): ",
                        WhyLocksReachNotAll(target.facts()))}};
}

Refusal UsedByQemu(const std::string& name) {
  return {NBD_REP_ERR_POLICY,
          "another program has the image to itself, such as a virtual machine",
          {ExitStatus::kUnavailable,
           absl::StrCat("the image of export ", Quoted(name),
                        " is in use: QEMU, or a program with its locks, lets "
                        "nobody else write to it; stop it, or serve the image "
                        "with --readonly, --cow or --force-share")}};
}

Refusal BeingMerged(const std::string& name, const absl::Status& status) {
  return {NBD_REP_ERR_POLICY,
          std::string(status.message()),
          {ExitStatus::kUnavailable,
           absl::StrCat("export ", Quoted(name), ": ", status.message())},
          /*ends_connection=*/true};
}

Refusal NotLockable(const std::string& name, const absl::Status& status) {
  return {
      NBD_REP_ERR_PLATFORM,
      "the export can't be locked",
      {ExitStatus::kSystem, absl::StrCat("failed to lock export ", Quoted(name),
                                         ": ", status.message())},
      /*ends_connection=*/true};
}

}  // namespace

std::optional<Refusal> ExportLock::Lock(const Export& target,
                                        const std::string& name,
                                        Exclusive exclusive) {
  if (std::optional<Refusal> refusal = LockForOne(target, name, exclusive)) {
    return refusal;
  }
  // Whatever is locked, and also where nothing is.
  if (const absl::Status status = CheckNoMerge(target); !status.ok()) {
    return BeingMerged(name, status);
  }
  const bool is_written_to = !target.lock_fd_is_read_only();
  if (!is_written_to || settings_.force_share || LockImage(target)) {
    return std::nullopt;
  }
  return UsedByQemu(name);
}

std::optional<Refusal> ExportLock::LockForOne(const Export& target,
                                              const std::string& name,
                                              Exclusive exclusive) {
  if (exclusive == Exclusive::kOff) return std::nullopt;
  if (settings_.exclusive_scope == ExclusiveScope::kCluster &&
      !LocksReachAll(target.facts())) {
    return OutOfReach(name, target);
  }
  ExclusiveLock lock(target);
  for (absl::Duration pause = kMinPause;;
       pause = std::min(2 * pause, kMaxPause)) {
    const absl::StatusOr<bool> locked = lock.Try();
    if (!locked.ok()) return NotLockable(name, locked.status());
    if (*locked) return std::nullopt;
    if (exclusive == Exclusive::kRefuse) {
      return InUse(name, "another client uses it, and must leave first");
    }
    if (exclusive == Exclusive::kTakeover) {
      const absl::Status asked = lock.AskHolder();
      if (!asked.ok()) return InUse(name, asked.message());
    }
    if (std::optional<Refusal> refusal =
            WaitForHolder(lock.holder_fd(), pause, name)) {
      return refusal;
    }
  }
}

std::optional<Refusal> ExportLock::WaitForHolder(int holder_fd,
                                                 absl::Duration pause,
                                                 const std::string& name) {
  // Input from a client that doesn't wait for the reply is kept, as long as the
  // buffer has room.
  const Channel::Events events =
      channel_.Wait({.other_fd = holder_fd, .deadline = SteadyNow() + pause});
  if (channel_.shutdown_requested()) return ShuttingDown();
  // The holder has ended.
  if (events.other) return std::nullopt;
  if (events.timeout && SteadyNow() >= deadline_) {
    return InUse(name,
                 absl::StrCat("another client has not left it within ",
                              absl::FormatDuration(settings_.time_limit)),
                 /*ends_connection=*/true);
  }
  if (!events.input) return std::nullopt;
  const Channel::Receipt receipt = channel_.Receive();
  if (receipt == Channel::Receipt::kData ||
      receipt == Channel::Receipt::kNothing) {
    return std::nullopt;
  }
  return InUse(name, "the client left while it waited",
               /*ends_connection=*/true);
}

}  // namespace nbdinetd
