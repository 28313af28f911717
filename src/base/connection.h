// A client's connection: what the server passes to the phases that serve it.
#ifndef NBDINETD_BASE_CONNECTION_H_
#define NBDINETD_BASE_CONNECTION_H_

#include <string>

#include "base/connection_fd.h"
#include "base/unique_fd.h"

namespace nbdinetd {

// An accepted connection, from a superserver or from our own listener.
struct Connection {
  ConnectionFd input;
  UniqueFd output;   // only for pipes; a socket serves as both
  std::string peer;  // its address for the log, as "127.0.0.1:40000"
  // Its IP address alone, as the kernel knows it; empty if it has none.
  std::string address = {};
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_CONNECTION_H_
