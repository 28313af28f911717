// The messages about the start and the end of a connection, and its status:
// what people and programs learn of it.
//
// nbdinetd.journal-fields(7) documents them. Threads: the main thread.
#ifndef NBDINETD_CONNECTION_CONNECTION_LOG_H_
#define NBDINETD_CONNECTION_CONNECTION_LOG_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "base/statistics.h"
#include "negotiation/negotiated.h"
#include "stream/tls_upgrade.h"

namespace nbdinetd {

// Adds the chosen export to every later message.
void SetExportFields(Log& log, const Negotiated& negotiated);

// The client has chosen an export.
void LogStart(const Log& log, const std::string& peer,
              const Negotiated& negotiated, const std::optional<TlsPeer>& tls);

// The start of the status while it is served: `serving "disk" to PEER`.
std::string ServingStatus(const std::string& peer, const Negotiated& negotiated,
                          const std::optional<TlsPeer>& tls);

// The end of such a connection.
void LogEnd(const Log& log, const std::string& peer, const Ending& ending,
            const Statistics& statistics, absl::Duration duration);

// The end of a connection whose client hasn't chosen an export: a short line.
void LogUnserved(const Log& log, const std::string& peer, const Ending& ending,
                 absl::Duration duration);

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_CONNECTION_LOG_H_
