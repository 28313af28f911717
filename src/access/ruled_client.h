// The client of a connection with --rules. Threads: one.
#ifndef NBDINETD_ACCESS_RULED_CLIENT_H_
#define NBDINETD_ACCESS_RULED_CLIENT_H_

#include <optional>

#include "access/client_rules.h"
#include "export/copy_on_write.h"

namespace nbdinetd {

// The copy for an export that the rules give as a private one.
struct CopyForClient {
  // Moved from when the client chooses such an export. Empty if the rules give
  // none.
  std::optional<PrivateCopy> file = std::nullopt;
  // The catalog below makes copies, of every export for every client (--cow).
  bool is_made_by_catalog = false;
};

struct RuledClient {
  ClientRules rules;
  CopyForClient copy = {};
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_RULED_CLIENT_H_
