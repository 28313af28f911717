// A client's connection, as the server hands it on.
#ifndef NBDINETD_BASE_CONNECTION_H_
#define NBDINETD_BASE_CONNECTION_H_

#include <string>

#include "base/connection_fd.h"
#include "base/unique_fd.h"

namespace nbdinetd {

// An accepted connection, whoever accepted it.
struct Connection {
  ConnectionFd input;
  UniqueFd output;   // only for a pair of pipes; a socket is both
  std::string peer;  // who it is, for the log: "127.0.0.1:40000"
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_CONNECTION_H_
