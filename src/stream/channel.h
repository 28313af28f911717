// A Stream with an input buffer, and the one place that waits.
//
// In every phase of the connection, a wait for the peer also notices a shutdown
// signal and one descriptor of the caller's, and tells the service manager's
// watchdog that the process is alive. What the peer does comes back as a value.
//
// Invariant: a shutdown is a state. Whoever notices it, in whatever wait, each
// later wait ends by a time that follows from shutdown_since(); so no phase
// depends on having been told. Threads: one.
#ifndef NBDINETD_STREAM_CHANNEL_H_
#define NBDINETD_STREAM_CHANNEL_H_

#include <poll.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/service_manager.h"
#include "stream/spinner.h"
#include "stream/stall_watch.h"
#include "stream/stream.h"

namespace nbdinetd {

class Channel {
 public:
  // `shutdown_fd` is borrowed, and readable once the process should end.
  // `stall_timeout`: how long Send() waits for a peer that reads nothing, and
  // what was sent may stay on its way to a TCP peer; not in a handshake, which
  // has a deadline of its own. `manager` is borrowed, and may be nullptr.
  Channel(std::unique_ptr<Stream> stream, int shutdown_fd,
          absl::Duration stall_timeout = absl::InfiniteDuration(),
          ServiceManager* manager = nullptr);

  // Puts a stream over the one there is, as TLS is. Nothing of the old one's
  // may be in input().
  void Wrap(absl::FunctionRef<std::unique_ptr<Stream>(std::unique_ptr<Stream>)>
                wrap) {
    stream_ = wrap(std::move(stream_));
  }

  // Until EndHandshake(), every Wait() and Send() ends at `deadline`, or
  // kShutdownGrace after a shutdown was noticed, whatever there is to receive.
  void BeginHandshake(absl::Time deadline) { handshake_deadline_ = deadline; }
  void EndHandshake() { handshake_deadline_.reset(); }
  // When that is; InfiniteFuture() outside a handshake.
  absl::Time HandshakeLimit() const;
  absl::Duration stall_timeout() const { return stall_watch_.timeout(); }
  // Send() or Wait() has given up on a peer that doesn't read, or doesn't
  // answer.
  bool send_timed_out() const { return send_timed_out_; }
  // It was a TCP peer of whose machine nothing was heard: for the stall
  // timeout, or for as long as the kernel waits.
  bool unacknowledged() const { return stall_watch_.unacknowledged(); }
  bool vanished() const { return vanished_; }

  // How to wait for a peer that has been quick of late (see Spinner).
  enum class Patience {
    kSleep,
    kPoll,         // poll the input for a moment before sleeping
    kGatherFirst,  // the same, but first let several requests come together
  };

  // What a wait is for. A shutdown that has not been noticed yet ends every
  // wait, too.
  struct Interest {
    bool input = true;  // something to receive, where there is room for it
    int other_fd = -1;  // readable; borrowed, -1 for none
    absl::Time deadline = absl::InfiniteFuture();
    Patience patience = Patience::kSleep;
  };

  // What has happened; several things may have.
  struct Events {
    bool input = false;     // Receive() has something to tell
    bool other = false;     // the other descriptor is readable
    bool shutdown = false;  // this wait has noticed the shutdown
    // The peer has been given up (send_timed_out()), or the handshake's time is
    // over; or the deadline has passed, and nothing else has happened.
    bool timeout = false;

    bool operator==(const Events&) const = default;
  };

  // Waits until one of the events has happened.
  //
  // While the stream can't read before it has sent something (TLS answers some
  // messages by itself), it is the output that is waited for, as in Send(): a
  // peer that takes nothing for the stall timeout is given up. So is, in every
  // wait, a TCP peer whose machine acknowledges nothing of what is on its way.
  Events Wait(const Interest& interest);

  // Waits until `fd` is readable, and for nothing else.
  void WaitForReadable(int fd);

  // True from the moment that Wait(), a Send() that has to wait, or
  // LookForShutdown() has noticed the shutdown signal.
  bool shutdown_requested() const {
    return shutdown_since_ != absl::InfiniteFuture();
  }
  // That moment; InfiniteFuture() before it.
  absl::Time shutdown_since() const { return shutdown_since_; }
  // Notices the signal without waiting for anything: for whoever is busy for
  // long.
  void LookForShutdown();

  enum class Receipt { kData, kNothing, kEnd, kReset, kTimedOut };
  // Receives once, without waiting, as much as there is room for. kEnd: the
  // peer sends no more, but may still read. kReset: the connection is gone;
  // kTimedOut: so it is, since the peer's machine doesn't answer.
  Receipt Receive();
  // After kReset, a phrase for the log on why; empty when it was just that.
  std::string failure() const { return stream_->failure(); }

  // What has been received and not consumed.
  absl::string_view input() const {
    return {buffer_.get() + begin_, end_ - begin_};
  }
  // The first `n` bytes of input() are done with.
  void Consume(size_t n);
  // Makes room so that input() can grow to at least `n` <= kInputBytes bytes.
  void MakeRoomFor(size_t n);

  // When the peer last sent something, or read all that it was sent.
  absl::Time last_progress() const { return last_progress_; }

  // Sends all of it, in order, waiting for the peer to read it. False when the
  // peer is gone or doesn't read, after which nothing more can be sent.
  // With `more` something follows at once.
  bool Send(absl::Span<iovec> pieces, bool more = false);
  bool Send(absl::string_view bytes, bool more = false);

  bool sends_files() const { return stream_->sends_files(); }
  // Sends up to `length` bytes of `file` without copying them, in the same way;
  // only where sends_files(). Returns how many: fewer when the file
  // has no more, or there is an error, be it the file's or the peer's. The next
  // Send() or reading the file tells which.
  size_t SendFile(int file, uint64_t offset, size_t length);

  // A hard disconnect, now. Nothing may be sent or received afterwards.
  void Abort();

 private:
  bool in_handshake() const { return handshake_deadline_.has_value(); }
  // Every wait is made here.
  int Poll(absl::Span<pollfd> fds, absl::Time deadline);
  // Between two waits there may be much work.
  void KeepAlive() {
    if (manager_ != nullptr) manager_->KeepAlive();
  }
  // Polls until a descriptor is ready, `deadline`, or the end of the handshake;
  // gives up on a peer that stalls.
  void PollPeer(absl::Span<pollfd> fds, absl::Time deadline);
  // The descriptors of one wait.
  struct Watched;
  Watched Watch(const Interest& interest);
  Events EventsOf(const Watched& watched);
  // Receives by spinning, without a look at the other descriptors. False when
  // that is not worth it, or nothing came.
  bool SpinForInput(Patience patience);
  // Whether any descriptor is ready; looks only after kMaxWaitsUnpolled waits
  // in a row that spinning has ended.
  bool ReadyAfterSpins(Watched& watched);
  void NoteSent();
  bool WaitWritable();
  void NoteShutdown();
  // For poll(); the signal stays pending, and must not wake it again and again.
  pollfd ShutdownEntry() const;
  Receipt ReceiveNow();

  std::unique_ptr<Stream> stream_;
  const int shutdown_fd_;
  ServiceManager* const manager_;
  absl::Time shutdown_since_ = absl::InfiniteFuture();
  bool broken_ = false;
  bool send_timed_out_ = false;
  absl::Time last_progress_;
  std::optional<absl::Time> handshake_deadline_;
  // The output counts as blocked while the stream can't read before it has sent
  // something, and while Send() waits.
  StallWatch stall_watch_;
  bool vanished_ = false;
  Spinner spinner_;
  int waits_unpolled_ = 0;
  // What spinning has received, for Receive() to tell.
  std::optional<Receipt> received_;
  std::unique_ptr<char[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_CHANNEL_H_
