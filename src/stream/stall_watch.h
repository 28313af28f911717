// Detects a peer that takes nothing of what is sent to it.
//
// Invariant: no function here waits. due() is the time of the next check, and
// the owner calls Look() at that time. Threads: one.
#ifndef NBDINETD_STREAM_STALL_WATCH_H_
#define NBDINETD_STREAM_STALL_WATCH_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "stream/stream.h"

namespace nbdinetd {

// Watches two kinds of stall. A blocked output: the stream's descriptor isn't
// writable, and the peer reads nothing. Bytes on their way to a TCP peer: they
// are in the kernel, and the peer's machine acknowledges nothing. While the
// output is blocked, only the first is looked at: the number of unread bytes
// covers the second, too, and with two clocks the reason would be random.
class StallWatch {
 public:
  // `timeout` is the time for which a peer may take nothing; infinite for no
  // limit.
  explicit StallWatch(absl::Duration timeout) : timeout_(timeout) {}

  absl::Duration timeout() const { return timeout_; }

  // The output is blocked; the time starts at the first call after
  // NoteUnblocked().
  void NoteBlocked(const Stream& stream);
  // The same, but the time starts now.
  void RestartBlocked(const Stream& stream);
  void NoteUnblocked() { blocked_.reset(); }
  // Bytes were sent at `now`, and may still be on their way.
  void NoteSent(const Stream& stream, absl::Time now);

  // The time of the next check; InfiniteFuture() if there is nothing to check.
  absl::Time due() const;
  // Makes the checks that are due. True when the peer has taken nothing for the
  // timeout.
  bool Look(const Stream& stream);
  // True if the stalled peer is a TCP peer whose machine acknowledged nothing.
  bool unacknowledged() const { return unacknowledged_; }

 private:
  // Measures how long a peer has taken nothing, as of the last check.
  class Stall {
   public:
    // `taken` grows with the bytes that the peer has taken; nullopt where the
    // stream doesn't report it.
    explicit Stall(std::optional<uint64_t> taken);
    // The time of the next check.
    absl::Time due(absl::Duration timeout) const;
    // Records a check. True when the peer has taken nothing for `timeout`.
    bool IsOver(std::optional<uint64_t> taken, absl::Duration timeout);

   private:
    absl::Time since_;
    absl::Time looked_;
    std::optional<uint64_t> taken_;
  };

  bool LookAtWay(const Stream& stream);

  const absl::Duration timeout_;
  std::optional<Stall> blocked_;
  // True if the stream reports what the peer's machine has acknowledged; set by
  // the first NoteSent().
  std::optional<bool> tells_acknowledged_;
  // NoteSent() only sets the time of a check, so that a reply that is
  // acknowledged in time costs no more. If bytes are still on their way then, a
  // Stall is created.
  absl::Time look_at_way_ = absl::InfiniteFuture();
  std::optional<Stall> on_its_way_;
  bool unacknowledged_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_STALL_WATCH_H_
