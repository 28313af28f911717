// Locks the chosen export for one client (--exclusive), and waits for that.
//
// While it waits it watches the client, the holder of the lock, the shutdown
// signal and the handshake's time limit. Threads: the main thread.
#ifndef NBDINETD_NEGOTIATION_EXPORT_LOCK_H_
#define NBDINETD_NEGOTIATION_EXPORT_LOCK_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "export/export.h"
#include "negotiation/negotiation_settings.h"
#include "negotiation/refusal.h"
#include "stream/channel.h"

namespace nbdinetd {

class ExportLock {
 public:
  // All borrowed. `deadline` is the end of the handshake's time.
  ExportLock(Channel& channel, const NegotiationSettings& settings,
             absl::Time deadline)
      : channel_(channel), settings_(settings), deadline_(deadline) {}

  // Locks `target`, which the client knows as `name`. nullopt on success, and
  // without --exclusive: the lock then belongs to `target` until that is
  // destroyed. Otherwise the reason of the failure. Input may arrive meanwhile,
  // so that a view of the channel's input is invalid afterwards.
  std::optional<Refusal> Lock(const Export& target, const std::string& name);

 private:
  // Waits until the next try is due: until `pause` is over, or `holder_fd` is
  // readable. A value when the wait has ended for good.
  std::optional<Refusal> WaitForHolder(int holder_fd, absl::Duration pause,
                                       const std::string& name);

  Channel& channel_;
  const NegotiationSettings& settings_;
  const absl::Time deadline_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_EXPORT_LOCK_H_
