// The transmission phase: requests in, replies out, until the connection ends.
//
// One loop: answer the tasks that the workers have finished, carry out every
// request that has been received, send the replies together, and only then
// wait. A request that the page cache can answer is answered inline. A request
// that may wait for the storage goes to the workers, and is answered when it is
// done, in any order.
//
// The loop itself reads headers, waits, and decides how the connection ends.
// ReadReplies answers reads, WriteReceiver receives writes, DeferredRequests
// starts and answers what may wait for the storage, and Pacer holds what a
// limit of the rate allows later.
//
// A shutdown refuses what comes later. A drain (Shutdown::kDrain) carries out
// and answers all that has been received, and at most the rest of one message
// is received after that: to a client that sends its other requests again over
// another connection, nothing has failed.
//
// Invariant: between two turns of the loop the output buffer is empty, and the
// input begins with a request's header, or with more of the payload of the one
// write that is under way. Threads: one, beside the workers.
#ifndef NBDINETD_TRANSMISSION_TRANSMISSION_H_
#define NBDINETD_TRANSMISSION_TRANSMISSION_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/statistics.h"
#include "base/transfer_limits.h"
#include "base/unique_fd.h"
#include "negotiation/negotiated.h"
#include "stream/channel.h"
#include "transmission/deferred_requests.h"
#include "transmission/failure_replies.h"
#include "transmission/pacer.h"
#include "transmission/progress.h"
#include "transmission/read_replies.h"
#include "transmission/reply_sender.h"
#include "transmission/workers.h"
#include "transmission/write_receiver.h"

namespace nbdinetd {

// The parts of a transmission; the references are borrowed.
struct TransmissionSetup {
  Channel& channel;
  const Negotiated& negotiated;
  const Log& log;
  Statistics& statistics;  // kept up to date
  Progress& progress;      // reports them
  // Between two requests, when no reply is owed.
  absl::Duration idle_timeout = absl::InfiniteDuration();
  // How much the client may transfer; borrowed, nullptr for no limits. A change
  // holds from the next wait on.
  const LiveLimits* limits = nullptr;
  UniqueFd event_fd = CreateEventFd();  // for the workers
};

class Transmission {
 public:
  explicit Transmission(TransmissionSetup setup);

  // Serves until the client disconnects, breaks the protocol or vanishes, or a
  // shutdown is requested; every request that was accepted has been carried
  // out by then, but for trims and zeroings that were cut short. Called once.
  Ending Run();

 private:
  // Receives once, as ReceiveLimit() says.
  void OnInput();
  void HandleInput();
  // Takes one request's header from the input, or all of a block status with a
  // payload, and starts the request. False when there is none, or when it has
  // to wait.
  bool HandleHeader();
  // Whether so much input has been received; otherwise makes room for it.
  bool HasInput(size_t bytes);
  void StartRequest(const Request& request);
  Verdict VerdictOn(const Request& request) const;
  // Starts a request without a payload, or refuses it.
  void CarryOut(const Request& request);
  // Lets a request go on that was held.
  void Go(const Pacer::Held& held);
  // Lets the held requests whose time has come go on; returns when the next one
  // does. None waits for an end of the connection that this process has begun.
  absl::Time ReleaseHeld();
  // Nobody waits for them any more.
  void DropHeld();
  // Whether what was held has to be looked at before the next wait.
  bool HoldsAnew() const;
  // The limits as they are now: a line of --rules about the client says more
  // than the options, which nbdinetctl may change meanwhile.
  TransferLimits LimitsNow() const;
  // Lets them hold.
  void ChangeLimits();
  // What has been accepted, and not answered.
  bool OwesReplies() const;

  // Notices a drain, once: takes what the socket has, and lets go on what a
  // limit of the rate holds.
  void BeginDrain();
  // Ends the connection in a drain when no message is incomplete.
  void EndDrain();
  // The most that may be received: in a drain, the rest of a message.
  size_t ReceiveLimit() const;

  // How to wait after a turn that carried out so many requests.
  Channel::Patience PatienceAfter(uint64_t requests) const;
  bool WantInput() const;
  bool InMessage() const;
  absl::Time WaitLimit() const;
  // Once a shutdown's time is over, lets long tasks end early. Returns the time
  // of the next call at the latest.
  absl::Time CutShortTasks();
  // For a long task that is carried out in this thread: notices a shutdown, and
  // a client that is gone.
  void LookBetweenPieces();
  void OnTimeLimit();
  void OnUnsentReplies();
  void End(ExitStatus status, std::string reason);
  bool Over() const;
  Ending Finish();
  // Flushes the export; 0 or an errno value. Sends WATCHDOG=1 while it waits.
  int FinalFlush();

  Channel& channel_;
  const Negotiated& negotiated_;
  const RequestDecoder decoder_;
  Export& target_;
  const absl::Duration idle_timeout_;
  const Log& log_;
  Statistics& statistics_;
  Progress& progress_;
  const LiveLimits* const limits_;
  uint64_t limit_changes_;  // those that pacer_ knows
  // Each of these uses only those before it.
  Pacer pacer_;
  ReplySender replies_;
  Workers workers_;
  FailureReplies failures_;
  ReadReplies reads_;
  DeferredRequests deferred_;
  WriteReceiver writes_;
  // Once it is set, nothing more is received; finished tasks are still
  // answered.
  std::optional<Ending> ending_;
  // `ending_` is that the client has ended its direction of the connection,
  // between two requests: it stands only if the replies can still be sent.
  bool closed_by_client_ = false;
  bool draining_ = false;  // BeginDrain() has been called
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_TRANSMISSION_H_
