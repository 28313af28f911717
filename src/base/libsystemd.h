// libsystemd, loaded when it is first needed.
//
// With the six libraries that it needs itself it is half of the start-up of a
// short-lived process, and a connection from xinetd, inetd, ssh or the listener
// that logs to standard error needs nothing of it. systemd's own programs treat
// libraries that they seldom need in the same way.
#ifndef NBDINETD_BASE_LIBSYSTEMD_H_
#define NBDINETD_BASE_LIBSYSTEMD_H_

#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>

#include <string>

namespace nbdinetd {

// The functions that we call, each as the manual page of its name says.
struct LibSystemd {
  decltype(&sd_listen_fds_with_names) listen_fds_with_names;
  decltype(&sd_journal_sendv) journal_sendv;
  decltype(&sd_notify) notify;
  decltype(&sd_watchdog_enabled) watchdog_enabled;

  // Loads it on the first call; nullptr when it can't be had. Main thread only.
  static const LibSystemd* Get();
  // Why the last Get() returned nullptr.
  static std::string Error();
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LIBSYSTEMD_H_
