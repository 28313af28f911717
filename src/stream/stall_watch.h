// Whether a peer still takes what it is sent.
//
// Invariant: nothing here waits. due() is the time of the next look, and the
// owner calls Look() by then. Threads: one.
#ifndef NBDINETD_STREAM_STALL_WATCH_H_
#define NBDINETD_STREAM_STALL_WATCH_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "stream/stream.h"

namespace nbdinetd {

// Two things can stall. A blocked output: the stream's descriptor is not
// writable, and the peer reads nothing. And bytes on their way to a TCP peer:
// they are in the kernel, and the peer's machine acknowledges nothing.
class StallWatch {
 public:
  // `timeout`: how long a peer may take nothing; infinite for no limit.
  explicit StallWatch(absl::Duration timeout) : timeout_(timeout) {}

  absl::Duration timeout() const { return timeout_; }

  // The output is blocked, since the first call after NoteUnblocked().
  void NoteBlocked(const Stream& stream);
  // The same, and the time counts from now on.
  void RestartBlocked(const Stream& stream);
  void NoteUnblocked() { blocked_.reset(); }
  // Bytes have been sent at `now`, and may be on their way.
  void NoteSent(const Stream& stream, absl::Time now);

  // When to look next; InfiniteFuture() while there is nothing to look at.
  absl::Time due() const;
  // Looks, where that is due. True when the peer has taken nothing for the
  // timeout.
  bool Look(const Stream& stream);
  // It was a TCP peer whose machine acknowledged nothing.
  bool unacknowledged() const { return unacknowledged_; }

 private:
  // Since when a peer has taken nothing, as far as the looks at it tell.
  class Stall {
   public:
    // `taken` grows with what the peer has taken; nothing where the stream
    // can't tell.
    explicit Stall(std::optional<uint64_t> taken);
    // When to look again.
    absl::Time due(absl::Duration timeout) const;
    // Notes a look. True when the peer has taken nothing for `timeout`.
    bool IsOver(std::optional<uint64_t> taken, absl::Duration timeout);

   private:
    absl::Time since_;
    absl::Time looked_;
    std::optional<uint64_t> taken_;
  };

  bool LookAtWay(const Stream& stream);

  const absl::Duration timeout_;
  std::optional<Stall> blocked_;
  // Whether the stream tells what the peer's machine has acknowledged; asked
  // once, by the first NoteSent().
  std::optional<bool> tells_acknowledged_;
  // A send only sets a time to look, so that a request that is answered and
  // acknowledged costs nothing more. What is still on its way by then becomes a
  // Stall.
  absl::Time look_at_way_ = absl::InfiniteFuture();
  std::optional<Stall> on_its_way_;
  bool unacknowledged_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_STALL_WATCH_H_
