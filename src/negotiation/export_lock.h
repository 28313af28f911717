// Locks the chosen export for one client (--exclusive), and waits for the lock;
// locks its image as QEMU's programs do (export/image_lock.h); and keeps away
// from a merge into it (export/base_lock.h).
//
// The wait also ends when the client disconnects, a shutdown signal arrives, or
// the handshake's time limit is reached. The lock is tried again, at intervals
// that grow to 50 ms. Rejected: fcntl(F_OFD_SETLKW). Only a signal could end it
// early, which needs a thread to send it to and a handler; and a read lock,
// which a read-only export needs, can't be waited for in that way. Threads: the
// main thread.
#ifndef NBDINETD_NEGOTIATION_EXPORT_LOCK_H_
#define NBDINETD_NEGOTIATION_EXPORT_LOCK_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "export/exclusive.h"
#include "export/export.h"
#include "negotiation/negotiation_settings.h"
#include "negotiation/refusal.h"
#include "stream/channel.h"

namespace nbdinetd {

class ExportLock {
 public:
  // All borrowed. `deadline` is the end of the handshake's time limit.
  ExportLock(Channel& channel, const NegotiationSettings& settings,
             absl::Time deadline)
      : channel_(channel), settings_(settings), deadline_(deadline) {}

  // Locks `target`, which the client requested as `name`. nullopt when it is
  // locked, until `target` is destroyed, as far as `exclusive` and the settings
  // want it;
  // otherwise the reason. May receive input, which invalidates views of the
  // channel's input.
  std::optional<Refusal> Lock(const Export& target, const std::string& name,
                              Exclusive exclusive);

 private:
  // The lock of --exclusive.
  std::optional<Refusal> LockForOne(const Export& target,
                                    const std::string& name,
                                    Exclusive exclusive);
  // Waits for the next attempt: for `pause`, or until `holder_fd` is readable.
  // A value when the wait has ended for good.
  std::optional<Refusal> WaitForHolder(int holder_fd, absl::Duration pause,
                                       const std::string& name);

  Channel& channel_;
  const NegotiationSettings& settings_;
  const absl::Time deadline_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_EXPORT_LOCK_H_
