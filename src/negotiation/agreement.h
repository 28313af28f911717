// The agreement of client and server about the transmission phase, besides the
// export; and the promises that follow from it. Plain values.
//
// PromisesFor() is the only place that decides what is advertised: for option
// haggling, for a connection on which another program has negotiated, and for
// --check.
#ifndef NBDINETD_NEGOTIATION_AGREEMENT_H_
#define NBDINETD_NEGOTIATION_AGREEMENT_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "export/catalog.h"
#include "export/coherence.h"
#include "export/exclusive.h"
#include "export/export.h"
#include "negotiation/negotiated.h"
#include "protocol/reply.h"
#include "protocol/request.h"

namespace nbdinetd {

struct Agreement {
  ReplyStyle style = ReplyStyle::kSimple;
  // The client has selected base:allocation for its export; never with simple
  // replies.
  bool base_allocation = false;

  bool operator==(const Agreement&) const = default;
};

// Whether several connections of one client are welcome to an export with
// `facts`; `wanted` is --multi-conn. The lock of --exclusive refuses a second
// connection, and where connections don't see the same, they aren't promised.
inline bool WelcomesMultiConn(std::optional<bool> wanted, Exclusive exclusive,
                              const Export::Facts& facts) {
  return wanted.value_or(exclusive == Exclusive::kOff && IsCoherent(facts));
}

// What is promised of `target`. NBD_FLAG_CAN_MULTI_CONN needs `multi_conn`.
Promises PromisesFor(const Export& target, const Agreement& agreement,
                     bool multi_conn);

// The same as the start of the transmission phase. `export_name` is the name
// for the log.
Negotiated Agree(const Catalog::Opened& opened, absl::string_view export_name,
                 const Agreement& agreement, bool multi_conn);

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_AGREEMENT_H_
