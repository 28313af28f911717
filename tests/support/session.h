// The server and its one client, joined by a socket or a pair of pipes.

#ifndef NBDINETD_TESTS_SUPPORT_SESSION_H_
#define NBDINETD_TESTS_SUPPORT_SESSION_H_

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "image.h"
#include "server_process.h"
#include "support/peer.h"

namespace nbdtest {

enum class Transport { kUnix, kTcp, kPipes };

struct SessionSetup {
  Transport transport = Transport::kUnix;
  // SO_SNDBUF and SO_RCVBUF of both ends; the kernel raises it to its minimum.
  std::optional<int> socket_buffer_bytes = std::nullopt;
  std::optional<unsigned long> file_size_limit = std::nullopt;
  // As systemd with Accept=yes hands a connection over, instead of as inetd
  // does.
  bool activated = false;
  std::vector<std::string> environment = {};
};

class Session {
 public:
  explicit Session(std::vector<std::string> arguments, SessionSetup setup = {});

  Peer& peer() { return *peer_; }
  ServerProcess& server() { return *server_; }
  const ExitReport& WaitForExit() { return server_->WaitForExit(); }
  // The client leaves as the specification wants it, and the server must end
  // with 0.
  void End();

 private:
  std::optional<Peer> peer_;
  std::optional<ServerProcess> server_;
};

// Whether the process ended by itself with this status. Says what standard
// error held if not.
testing::AssertionResult ExitedWith(const ExitReport& report, int status);
// The same with several statuses allowed.
testing::AssertionResult ExitedWithOneOf(const ExitReport& report,
                                         const std::vector<int>& statuses);

// Compares bytes and names the first difference instead of printing megabytes.
testing::AssertionResult SameBytes(std::string_view actual,
                                   std::string_view expected);

// Whether the reply carries this error; names both in words.
testing::AssertionResult HasError(const Reply& reply, uint32_t error);
testing::AssertionResult HasType(const OptionAnswer& answer, uint32_t type);

// True in CI, where a test that can't run is a failure instead of a skipped
// test.
bool InCi();

}  // namespace nbdtest

// Ends the test when something that it needs is not there: skipped with the
// reason on a developer's machine, failed in CI, so that nothing goes untested
// there unnoticed.
#define NEED_OR_SKIP(condition, reason)                   \
  do {                                                    \
    if (!(condition)) {                                   \
      if (nbdtest::InCi()) FAIL() << "in CI: " << reason; \
      GTEST_SKIP() << reason;                             \
    }                                                     \
  } while (false)

#endif  // NBDINETD_TESTS_SUPPORT_SESSION_H_
