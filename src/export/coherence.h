// Whether all connections to an export see the same, those to other hosts
// included, and whether one can have it to itself. NBD_FLAG_CAN_MULTI_CONN,
// --exclusive-scope and --check ask here. Threads: any.
#ifndef NBDINETD_EXPORT_COHERENCE_H_
#define NBDINETD_EXPORT_COHERENCE_H_

#include <string>

#include "export/export.h"

namespace nbdinetd {

// "if this flag is present, then the effects of NBD_CMD_FLUSH and
// NBD_CMD_FLAG_FUA MUST be visible across all connections when the server sends
// its reply to that command to the client" (NBD_FLAG_CAN_MULTI_CONN).
bool IsCoherent(const Export::Facts& facts);
// Why or why not, as the part of a sentence behind a colon.
std::string CoherenceInWords(const Export::Facts& facts);

// Whether a lock on an export excludes every process that could serve it, on
// whatever host.
bool LocksReachAll(const Export::Facts& facts);
// Why not, and what to do; empty if they do.
std::string WhyLocksReachNotAll(const Export::Facts& facts);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_COHERENCE_H_
