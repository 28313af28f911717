// The outcomes of connections that nbdinetctl has ended.
#ifndef NBDINETD_CTL_ENDED_CONNECTIONS_H_
#define NBDINETD_CTL_ENDED_CONNECTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ctl/command_line.h"
#include "ctl/connections.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

inline constexpr char kDisconnected[] = "disconnected";

// A connection, and what became of it.
struct Outcome {
  LiveConnection connection;
  std::string result;
  bool has_left = false;  // of a drain
};

// "ended with a failure (RESULT): see ...".
std::string FailureOf(absl::string_view result, const std::string& unit);

// Takes the counters from the connections' last messages, if the journal has
// them and may be read, and for those that are "disconnected" the result.
// Processes of a listening service have no other one.
void ReadLastMessages(const Where& where, std::vector<Outcome>& outcomes);

// Prints a row for each. kFailed if one isn't "disconnected".
absl::StatusOr<int> PrintOutcomes(const CommandLine& line,
                                  const std::vector<Outcome>& outcomes);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_ENDED_CONNECTIONS_H_
