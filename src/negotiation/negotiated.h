// The results of a negotiation after which the connection continues. Plain
// values.
#ifndef NBDINETD_NEGOTIATION_NEGOTIATED_H_
#define NBDINETD_NEGOTIATION_NEGOTIATED_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/transfer_limits.h"
#include "export/exclusive.h"
#include "export/export.h"
#include "protocol/reply.h"
#include "protocol/request.h"

namespace nbdinetd {

// The agreement between client and server when transmission starts.
struct Negotiated {
  std::shared_ptr<Export> target;
  std::string export_name;   // as the client spelled it
  std::string catalog_name;  // as the catalog does: canonical
  // Why the export is read-only without --readonly; usually empty.
  std::string read_only_reason;
  // How it is to be locked, in place of --exclusive.
  std::optional<Exclusive> exclusive = std::nullopt;
  // In place of --max-rate and --max-iops, for the kinds that were given.
  TransferLimits limits;
  std::string rule;  // FILE:LINE of --rules; empty without them
  Promises promises;
  // Extended replies go with Promises::headers.
  ReplyStyle style = ReplyStyle::kSimple;
};

// The server has acknowledged NBD_OPT_STARTTLS. The new negotiation keeps only
// the deadline of the handshake and the client flags, which are sent once.
struct TlsUpgrade {
  absl::Time deadline;
  bool no_zeroes = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATED_H_
