// A refused option: the error reply to the client, and the ending of the
// connection if the option has no error reply. A plain value.
#ifndef NBDINETD_NEGOTIATION_REFUSAL_H_
#define NBDINETD_NEGOTIATION_REFUSAL_H_

#include <string>

#include "base/exit_status.h"
#include "protocol/nbd.h"

namespace nbdinetd {

struct Refusal {
  NbdOptionReply reply;
  std::string sentence;  // for people, in the error reply
  Ending ending;
  // The connection also ends after an error reply.
  bool ends_connection = false;
};

inline constexpr char kShuttingDown[] = "the server is shutting down";

inline Refusal ShuttingDown() {
  return {
      NBD_REP_ERR_SHUTDOWN, kShuttingDown, {ExitStatus::kOk, kShuttingDown}};
}

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_REFUSAL_H_
