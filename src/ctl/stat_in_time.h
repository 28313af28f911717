// Looks at a file whose storage may not answer any more: a server of NFS that
// is gone, a daemon of FUSE that has stopped. stat(2) then waits without an
// end, just when an administrator wants to know what happens.
#ifndef NBDINETD_CTL_STAT_IN_TIME_H_
#define NBDINETD_CTL_STAT_IN_TIME_H_

#include <sys/stat.h>

#include <string>

namespace nbdinetd::ctl {

// Fills `*st`, and returns 0 or an errno value. ETIMEDOUT: no answer within a
// second. All calls together wait for a few seconds at most, since many exports
// may be on one storage; later ones then have a few milliseconds.
//
// A child process looks, since nothing can end a thread that the kernel makes
// wait, and it would keep this process from ending. One child serves all calls;
// one that doesn't answer is left behind. Threads: one, the only one when it is
// called first.
int StatInTime(const std::string& path, struct stat* st);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_STAT_IN_TIME_H_
