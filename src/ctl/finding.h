// What `check` finds.
#ifndef NBDINETD_CTL_FINDING_H_
#define NBDINETD_CTL_FINDING_H_

#include <string>

namespace nbdinetd::ctl {

struct Finding {
  enum class Level {
    kOk,       // nothing is wrong
    kWarning,  // clients are served, but not as it is meant, or not for long
    kError,    // clients aren't served
  };
  Level level = Level::kOk;
  std::string message;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_FINDING_H_
