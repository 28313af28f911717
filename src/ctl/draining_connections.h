// Connections that are told to drain (kDrainSignal): a client that connects
// again sees no error.
//
// Of this machine only. Threads: one.
#ifndef NBDINETD_CTL_DRAINING_CONNECTIONS_H_
#define NBDINETD_CTL_DRAINING_CONNECTIONS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "ctl/connections.h"
#include "ctl/ended_connections.h"

namespace nbdinetd::ctl {

class DrainingConnections {
 public:
  // Takes those that it doesn't know yet. Whether all have a process.
  bool Add(std::vector<LiveConnection> found);

  // Tells those that haven't been told, and waits until all have left, or
  // `until` (SteadyNow()).
  void Wait(absl::Time until);
  // But for those that can't be told by this user.
  bool all_have_left() const;

  // What has become of each, which is "disconnected" for one that has left.
  std::vector<Outcome> TakeOutcomes();

 private:
  struct Draining {
    LiveConnection connection;
    UniqueFd pidfd = UniqueFd();
    bool told = false;
    bool left = false;
    bool given_up = false;     // this user can't signal it
    std::string trouble = "";  // why it couldn't be told
  };

  static void Tell(Draining& draining);
  // One turn of Wait().
  void WaitOnce(absl::Time until);

  std::vector<Draining> connections_;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_DRAINING_CONNECTIONS_H_
