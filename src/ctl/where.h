// The machine or user whose exports nbdinetctl looks at: --user, -H and -M.
#ifndef NBDINETD_CTL_WHERE_H_
#define NBDINETD_CTL_WHERE_H_

#include <string>

namespace nbdinetd::ctl {

// At most one of `host` and `machine` is set, and `host` excludes `user`.
struct Where {
  bool user = false;
  std::string host;     // "[USER@]HOST", reached by ssh
  std::string machine;  // a local container

  // Files, processes and the journal of this machine are those of the exports.
  bool local() const { return host.empty() && machine.empty(); }
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_WHERE_H_
