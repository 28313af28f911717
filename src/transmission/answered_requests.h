// The requests whose replies are in the output buffer. They are counted once
// the replies have been sent.
//
// Nobody looks at the clock for them: the channel has done so when it received
// the requests and when it sent the replies. Equal requests of one receive are
// one run, so that a batch costs as much as one request. Threads: one.
#ifndef NBDINETD_TRANSMISSION_ANSWERED_REQUESTS_H_
#define NBDINETD_TRANSMISSION_ANSWERED_REQUESTS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "base/statistics.h"
#include "protocol/request.h"

namespace nbdinetd {

class AnsweredRequests {
 public:
  // Beyond that, full() is true.
  static constexpr size_t kMaxRuns = 64;

  // `statistics` is borrowed.
  explicit AnsweredRequests(Statistics& statistics) : statistics_(statistics) {}

  // All of the reply to the request is in the buffer, or has been sent. Not
  // while full().
  void Add(const Request& request, bool succeeded);
  // The replies must be sent before the next Add().
  bool full() const { return size_ == kMaxRuns; }
  // All the replies have been sent, the last of them at `now`.
  void CountSent(absl::Time now) {
    if (size_ > 0) CountRuns(now);
  }
  // They will not be sent.
  void Drop() { size_ = 0; }

 private:
  struct Run {
    absl::Time received;
    Command command;
    size_t size_bucket;  // kNoSize: only the latency counts
    uint64_t count;
    uint64_t bytes;
  };
  static constexpr size_t kNoSize = SizeHistogram::kBuckets;

  void CountRuns(absl::Time now);

  Statistics& statistics_;
  std::array<Run, kMaxRuns> runs_;
  size_t size_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_ANSWERED_REQUESTS_H_
