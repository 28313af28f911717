// The counters of a connection, for the log, the service manager and
// nbdinetctl.
//
// A request counts once, when its last reply has been sent: with its latency,
// the time since its header was received, and, if it succeeded, with its size.
// The size of a refused request is any number that the client likes, and isn't
// counted.
#ifndef NBDINETD_BASE_STATISTICS_H_
#define NBDINETD_BASE_STATISTICS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "base/counter.h"
#include "base/histogram.h"

namespace nbdinetd {

// The kinds of requests, in the order of their numbers in the specification.
enum class Command : uint8_t {
  kRead,
  kWrite,
  kFlush,
  kTrim,
  kCache,
  kWriteZeroes,
  kBlockStatus,
};
inline constexpr size_t kCommands = 7;
inline constexpr std::array<Command, kCommands> kAllCommands = {
    Command::kRead,       Command::kWrite, Command::kFlush,
    Command::kTrim,       Command::kCache, Command::kWriteZeroes,
    Command::kBlockStatus};

// "read", "write_zeroes", ...: for programs.
inline const char* NameOf(Command command) {
  static constexpr const char* kNames[kCommands] = {
      "read",  "write",        "flush",       "trim",
      "cache", "write_zeroes", "block_status"};
  return kNames[static_cast<size_t>(command)];
}

inline constexpr uint64_t kNsecPerUsec = 1000;

// In nanoseconds: the bounds are 1 us, 2 us, ... 67 s.
using LatencyHistogram = Histogram<kNsecPerUsec, 27>;
// In bytes: the bounds are 512 bytes, 1 KiB, ... 4 GiB, which no request with a
// compact header exceeds.
using SizeHistogram = Histogram<512, 24>;

struct CommandStatistics {
  LatencyHistogram latency;
  SizeHistogram size;  // no flush has one
};

// Every counter only grows. Threads: as Counter.
struct Statistics {
  Counter requests;  // without NBD_CMD_DISC
  Counter bytes_read;
  Counter bytes_written;
  Counter bytes_sent_by_sendfile;  // of bytes_read
  Counter errors;                  // error replies
  Counter longest_request_nsec;    // the longest latency
  std::array<CommandStatistics, kCommands> by_command;

  CommandStatistics& of(Command command) {
    return by_command[static_cast<size_t>(command)];
  }
  const CommandStatistics& of(Command command) const {
    return by_command[static_cast<size_t>(command)];
  }
  absl::Duration longest_request() const {
    return absl::Nanoseconds(static_cast<int64_t>(longest_request_nsec));
  }
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_STATISTICS_H_
