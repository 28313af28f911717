// The client of a connection with --rules. Threads: one.
#ifndef NBDINETD_ACCESS_RULED_CLIENT_H_
#define NBDINETD_ACCESS_RULED_CLIENT_H_

#include <optional>

#include "access/client_rules.h"
#include "export/copy_on_write.h"

namespace nbdinetd {

struct RuledClient {
  ClientRules rules;
  // For an export that the rules give as a private copy; empty if they give
  // none, and if --cow makes copies for all clients.
  std::optional<PrivateCopy> copy = std::nullopt;
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_RULED_CLIENT_H_
