// A Stream with an input buffer, and the only place that waits for the peer.
//
// In every phase, a wait for the peer also notices a shutdown signal, and sends
// the service manager's WATCHDOG=1. Wait() also notices one descriptor of the
// caller. Errors of the peer are returned as values.
//
// Invariant: a shutdown is a state. After any wait has noticed it, every later
// wait ends at a time derived from shutdown_since(). A phase that starts later
// therefore can't miss it. Threads: one.
#ifndef NBDINETD_STREAM_CHANNEL_H_
#define NBDINETD_STREAM_CHANNEL_H_

#include <poll.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/limits.h"
#include "base/service_manager.h"
#include "base/shutdown_notice.h"
#include "stream/spinner.h"
#include "stream/stall_watch.h"
#include "stream/stream.h"

namespace nbdinetd {

class Channel {
 public:
  // `shutdown_fd` is borrowed, and becomes readable when the process should
  // end, or for something else: `told` says which, as in ShutdownNotice.
  // `stall_timeout` is the time for which Send() waits for a peer that doesn't
  // read, and for which sent bytes may stay unacknowledged by a TCP peer; a
  // handshake has its own deadline instead. `manager` is borrowed, and may be
  // nullptr.
  Channel(std::unique_ptr<Stream> stream, int shutdown_fd,
          absl::Duration stall_timeout = absl::InfiniteDuration(),
          ServiceManager* manager = nullptr,
          std::function<Shutdown()> told = nullptr);

  // Wraps the stream in another one, such as TLS. input() must be empty.
  void Wrap(absl::FunctionRef<std::unique_ptr<Stream>(std::unique_ptr<Stream>)>
                wrap) {
    stream_ = wrap(std::move(stream_));
  }

  // Until EndHandshake(), every Wait() and Send() ends at `deadline`, or
  // kShutdownGrace after a shutdown was noticed, even if there is input.
  void BeginHandshake(absl::Time deadline) { handshake_deadline_ = deadline; }
  void EndHandshake() { handshake_deadline_.reset(); }
  // That time; InfiniteFuture() outside a handshake.
  absl::Time HandshakeLimit() const;
  absl::Duration stall_timeout() const { return stall_watch_.timeout(); }
  // True after Send() or Wait() has given up on a peer that doesn't read or
  // answer.
  bool send_timed_out() const { return send_timed_out_; }
  // The cause, for a TCP peer: unacknowledged() when its machine acknowledged
  // nothing for the stall timeout, vanished() when the kernel reported that the
  // machine doesn't answer.
  bool unacknowledged() const { return stall_watch_.unacknowledged(); }
  bool vanished() const { return vanished_; }

  // How to wait for a peer that has answered quickly of late (see Spinner).
  enum class Patience {
    kSleep,
    kPoll,         // poll the input for a moment before sleeping
    kGatherFirst,  // the same, but first let several requests come together
  };

  // The events that end a wait, besides the first notice of a shutdown.
  struct Interest {
    // Bytes to receive, if the buffer has room. Without this, the wait notices
    // a peer that has closed both directions.
    bool input = true;
    int other_fd = -1;  // readable; borrowed, -1 for none
    absl::Time deadline = absl::InfiniteFuture();
    Patience patience = Patience::kSleep;
  };

  // The events that have happened; more than one may be true.
  struct Events {
    bool input = false;  // Receive() has a result
    // The other descriptor is readable, or the shutdown's was so for something
    // else.
    bool other = false;
    bool shutdown = false;  // this wait has noticed the shutdown
    bool gone = false;      // nothing can be sent any more; reported once
    // send_timed_out(), or the handshake's time is over; or the deadline has
    // passed and no other event has happened.
    bool timeout = false;

    bool operator==(const Events&) const = default;
  };

  // Waits until one of the events has happened.
  //
  // If the stream must send before it can receive (TLS answers some messages by
  // itself), Wait() waits until it can send, as Send() does, and gives up on a
  // peer that reads nothing for the stall timeout. In every wait, it also gives
  // up on a TCP peer whose machine acknowledges nothing of what is on its way.
  Events Wait(const Interest& interest);

  // Waits only until `fd` is readable, without a time limit.
  void WaitForReadable(int fd);

  // True after Wait(), a Send() that had to wait, or LookForShutdown() has
  // noticed the shutdown signal.
  bool shutdown_requested() const {
    return shutdown_since_ != absl::InfiniteFuture();
  }
  // The time of that; InfiniteFuture() before it.
  absl::Time shutdown_since() const { return shutdown_since_; }
  // The shutdown is a drain, and no other has followed.
  bool drains() const { return drains_; }
  // The time at which the client has had its time after a shutdown: to send the
  // rest of a message, and to read its replies. InfiniteFuture() before it.
  absl::Time ShutdownLimit() const;
  // In a drain, begins that time anew: the replies have come from the storage
  // only now.
  void RestartShutdownLimit();
  // Checks for the signal without waiting: for code that works for long.
  void LookForShutdown();

  enum class Receipt { kData, kNothing, kEnd, kReset, kTimedOut };
  // Receives once, without waiting, as much as the buffer has room for. kEnd:
  // the peer sends no more, but may still read. kReset: the connection is gone.
  // kTimedOut: it is gone because the peer's machine doesn't answer. `at_most`:
  // the most bytes, not 0.
  Receipt Receive(size_t at_most = kInputBytes);
  // After kReset, a phrase for the log with the reason; empty if there is no
  // other.
  std::string failure() const { return stream_->failure(); }

  // The bytes that were received and aren't consumed yet.
  absl::string_view input() const {
    return {buffer_.get() + begin_, end_ - begin_};
  }
  // Removes the first `n` bytes of input().
  void Consume(size_t n);
  // Moves input() so that it can grow to at least `n` <= kInputBytes bytes.
  void MakeRoomFor(size_t n);

  // The time at which the peer last sent something, or Send() last finished.
  absl::Time last_progress() const { return last_progress_; }
  // The time at which the peer last sent something.
  absl::Time last_receipt() const { return last_receipt_; }

  // Sends all bytes in order, and waits for the peer to read them. False when
  // the peer is gone or doesn't read; nothing more can be sent then. `more`:
  // other bytes follow at once.
  bool Send(absl::Span<iovec> pieces, bool more = false);
  bool Send(absl::string_view bytes, bool more = false);

  bool sends_files() const { return stream_->sends_files(); }
  size_t held_bytes() const { return stream_->held_bytes(); }
  // Sends up to `length` bytes of `file` without copying them, and waits as
  // Send() does; only where sends_files() returns true. Returns the number of
  // bytes sent: fewer when the file ends, or after an error of the file or the
  // peer. The next Send(), or a read from the file, tells which.
  size_t SendFile(int file, uint64_t offset, size_t length);

  // A hard disconnect. Nothing may be sent or received afterwards.
  void Abort();

 private:
  bool in_handshake() const { return handshake_deadline_.has_value(); }
  // All waits of this class.
  int Poll(absl::Span<pollfd> fds, absl::Time deadline);
  // Called by Wait() and Send(): much work may lie between two waits.
  void KeepAlive() {
    if (manager_ != nullptr) manager_->KeepAlive();
  }
  // Polls until a descriptor is ready, `deadline` has passed, the handshake's
  // time is over, or the peer has stalled for the stall timeout.
  void PollPeer(absl::Span<pollfd> fds, absl::Time deadline);
  // The descriptors of one wait.
  struct Watched;
  Watched Watch(const Interest& interest);
  Events EventsOf(const Watched& watched);
  // Receives by spinning, and doesn't poll the other descriptors. False when
  // spinning doesn't save time, or nothing has arrived.
  bool SpinForInput(Patience patience);
  // True if a descriptor is ready. It polls only after kMaxWaitsUnpolled
  // consecutive waits that ended by spinning.
  bool ReadyAfterSpins(Watched& watched);
  void NoteSent();
  bool WaitWritable();
  // Polls until a descriptor is ready, the stream has room for much, `deadline`
  // has passed, or the peer has stalled. True for room.
  bool PollForRoom(absl::Span<pollfd> fds, absl::Time deadline);
  // Called when the shutdown's descriptor is readable.
  void NoteSignal();
  // The entry for poll(). It ignores the signal of a shutdown once noticed: one
  // that stays pending would end every wait.
  pollfd ShutdownEntry() const;
  Receipt ReceiveNow(size_t at_most = kInputBytes);

  std::unique_ptr<Stream> stream_;
  const int shutdown_fd_;
  ServiceManager* const manager_;
  const std::function<Shutdown()> told_;
  absl::Time shutdown_since_ = absl::InfiniteFuture();
  bool drains_ = false;
  absl::Time drain_from_;  // for ShutdownLimit()
  bool broken_ = false;
  bool send_timed_out_ = false;
  absl::Time last_progress_;
  absl::Time last_receipt_;
  std::optional<absl::Time> handshake_deadline_;
  // The output counts as blocked while the stream must send before it can
  // receive, and while Send() waits.
  StallWatch stall_watch_;
  bool vanished_ = false;
  Spinner spinner_;
  int waits_unpolled_ = 0;
  // The result of a receive during spinning, for Receive() to return.
  std::optional<Receipt> received_;
  std::unique_ptr<char[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_CHANNEL_H_
