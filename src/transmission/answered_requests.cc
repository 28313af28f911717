#include "transmission/answered_requests.h"

#include <optional>

#include "protocol/nbd.h"

namespace nbdinetd {
namespace {

std::optional<Command> CommandOf(uint16_t type) {
  switch (type) {
    case NBD_CMD_READ:
      return Command::kRead;
    case NBD_CMD_WRITE:
      return Command::kWrite;
    case NBD_CMD_FLUSH:
      return Command::kFlush;
    case NBD_CMD_TRIM:
      return Command::kTrim;
    case NBD_CMD_CACHE:
      return Command::kCache;
    case NBD_CMD_WRITE_ZEROES:
      return Command::kWriteZeroes;
    case NBD_CMD_BLOCK_STATUS:
      return Command::kBlockStatus;
    default:
      return std::nullopt;
  }
}

}  // namespace

void AnsweredRequests::Add(const Request& request, bool succeeded) {
  const std::optional<Command> command = CommandOf(request.type);
  if (!command.has_value()) return;
  const bool has_size = succeeded && command != Command::kFlush;
  const uint64_t bytes = has_size ? request.whole_length() : 0;
  const size_t bucket = has_size ? SizeHistogram::BucketOf(bytes) : kNoSize;
  if (size_ > 0) {
    Run& last = runs_[size_ - 1];
    if (last.command == *command && last.size_bucket == bucket &&
        last.received == request.received) {
      ++last.count;
      last.bytes += bytes;
      return;
    }
  }
  runs_[size_++] = {request.received, *command, bucket, 1, bytes};
}

void AnsweredRequests::CountRuns(absl::Time now) {
  for (size_t i = 0; i < size_; ++i) {
    const Run& run = runs_[i];
    const auto nsec =
        static_cast<uint64_t>(absl::ToInt64Nanoseconds(now - run.received));
    CommandStatistics& statistics = statistics_.of(run.command);
    statistics.latency.Add(LatencyHistogram::BucketOf(nsec), run.count,
                           nsec * run.count);
    if (run.size_bucket != kNoSize) {
      statistics.size.Add(run.size_bucket, run.count, run.bytes);
    }
    statistics_.longest_request_nsec.Raise(nsec);
  }
  size_ = 0;
}

}  // namespace nbdinetd
