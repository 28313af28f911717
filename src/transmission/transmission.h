// The transmission phase: requests in, replies out, until the connection ends.
//
// One loop: carry out every request that has been received, send the replies
// together, take what the workers have finished, and only then wait. What the
// page cache can answer is answered inline; what may have to wait for the
// storage goes to the workers, and its reply comes when it comes.
//
// Invariant: between two turns of the loop the output buffer is empty, and the
// input begins with a request's header, or with more of the payload of the one
// write that is under way. Threads: one, beside the workers.
#ifndef NBDINETD_TRANSMISSION_TRANSMISSION_H_
#define NBDINETD_TRANSMISSION_TRANSMISSION_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/timeouts.h"
#include "negotiation/negotiated.h"
#include "stream/channel.h"
#include "transmission/progress.h"
#include "transmission/reply_sender.h"
#include "transmission/statistics.h"
#include "transmission/task.h"
#include "transmission/workers.h"

namespace nbdinetd {

class Transmission {
 public:
  // All borrowed. `statistics` is kept up to date, and `progress` asked to
  // tell of it. `event_fd` is for the workers.
  Transmission(Channel& channel, const Negotiated& negotiated,
               const Timeouts& timeouts, const Log& log, Statistics& statistics,
               Progress& progress, UniqueFd event_fd = CreateEventFd());

  // Serves until the client disconnects, breaks the protocol or vanishes, or a
  // shutdown is requested; every request that was accepted has been carried
  // out by then. Called once.
  Ending Run();

 private:
  // A write whose payload has not been consumed to its end.
  struct PendingWrite {
    Request request;
    uint64_t consumed = 0;  // bytes of the payload
    // For a write under way elsewhere. Looked at once a turn: the end of the
    // input must not be asked for before what is there has been tried.
    bool waits = false;
    // The answer is known, and the rest of the payload only read away.
    NbdError error = NBD_SUCCESS;
    std::string sentence;
  };

  // Requests (transmission.cc).
  void OnInput();
  void HandleInput();
  bool HandleHeader();
  bool ContinueWrite(PendingWrite& write);
  bool WriteWhole(PendingWrite& write);
  bool WritePiece(PendingWrite& write);
  void FinishWrite(const PendingWrite& write);
  void StartRead(const Request& request);
  void StartTask(const Request& request,
                 std::optional<absl::Span<const char>> payload = {});

  // Results (transmission_results.cc).
  void HandleFinished();
  void AnswerTask(const Task& task);
  // Answers the read from `offset` to its end in content chunks as far as the
  // page cache has it; the first byte that it hasn't.
  uint64_t SendCachedFragments(const Request& request, uint64_t offset);
  void SendFragments(const Request& request);
  // With `as_file` the data is sent without being copied, as far as that goes.
  void SendOneChunk(const Request& request, bool as_file = false);
  // Tells the client, and the log, what the storage said.
  void Fail(const Request& request, StorageError storage_error,
            uint64_t offset);
  // "read of 4096 bytes at offset 8192 failed: Input/output error".
  static std::string FailureSentence(const Request& request,
                                     StorageError error);
  void LogStorageError(const Request& request, StorageError error);

  // The end (transmission.cc).
  // How to wait, after so many requests have been carried out in one turn.
  Channel::Patience PatienceAfter(uint64_t requests) const;
  bool WantInput() const;
  // What a write would wait for is a task of ours, whose end is told.
  bool WritesHaveToWait() const;
  bool InMessage() const;
  // When a client has had all the time that a shutdown leaves it.
  absl::Time ShutdownLimit() const;
  absl::Time WaitLimit() const;
  void OnTimeLimit();
  void OnUnsentReplies();
  void End(ExitStatus status, std::string reason);
  bool Over() const;
  Ending Finish();
  // Flushes the export; an errno value. The storage may take long, and the wait
  // for it is like any other.
  int FinalFlush();

  Channel& channel_;
  const Negotiated& negotiated_;
  Export& target_;
  const Timeouts& timeouts_;
  const Log& log_;
  Statistics& statistics_;
  Progress& progress_;
  ReplySender replies_;
  Workers workers_;
  std::optional<PendingWrite> write_;
  // Once set nothing more is received; the workers' results are still sent.
  std::optional<Ending> ending_;
  int storage_errors_logged_ = 0;
  // The last one was.
  bool block_status_is_quick_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_TRANSMISSION_H_
