#include "session.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace nbdtest {

namespace {

[[noreturn]] void Fail(const char* call) {
  throw std::runtime_error(std::string(call) + ": " + std::strerror(errno));
}

struct Ends {
  int client_in = -1;
  int client_out = -1;
  int server_in = -1;
  int server_out = -1;
};

Ends OfSockets(int client, int server) {
  return {client, client, server, server};
}

Ends MakeUnixPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
    Fail("socketpair");
  return OfSockets(fds[0], fds[1]);
}

void SetBuffers(int fd, int bytes) {
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) != 0) {
    Fail("setsockopt");
  }
}

Ends MakeTcpPair(std::optional<int> buffer_bytes) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || client < 0) Fail("socket");
  // Before the connection, so that the window is small from its first segment
  // on.
  if (buffer_bytes.has_value()) {
    SetBuffers(listener, *buffer_bytes);
    SetBuffers(client, *buffer_bytes);
    // Loopback's segments of 64 KiB would not fit into the window, and each
    // byte would wait for the persist timer.
    const int segment = 536;
    setsockopt(listener, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    setsockopt(client, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, generic, length) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, generic, &length) != 0 ||
      connect(client, generic, length) != 0) {
    Fail("failed to connect over loopback");
  }
  const int server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (server < 0) Fail("accept4");
  close(listener);
  return OfSockets(client, server);
}

Ends MakePipes() {
  int to_server[2];
  int to_client[2];
  if (pipe2(to_server, O_CLOEXEC) != 0 || pipe2(to_client, O_CLOEXEC) != 0)
    Fail("pipe2");
  return {to_client[0], to_server[1], to_server[0], to_client[1]};
}

Ends Connect(const SessionSetup& setup) {
  switch (setup.transport) {
    case Transport::kTcp:
      return MakeTcpPair(setup.socket_buffer_bytes);
    case Transport::kPipes:
      return MakePipes();
    case Transport::kUnix:
      break;
  }
  const Ends ends = MakeUnixPair();
  if (setup.socket_buffer_bytes.has_value()) {
    SetBuffers(ends.client_in, *setup.socket_buffer_bytes);
    SetBuffers(ends.server_in, *setup.socket_buffer_bytes);
  }
  return ends;
}

}  // namespace

Session::Session(std::vector<std::string> arguments, SessionSetup setup) {
  const Ends ends = Connect(setup);
  peer_.emplace(ends.client_in, ends.client_out);
  // A pipe on descriptor 0 says nothing about itself; it takes the option.
  if (setup.transport == Transport::kPipes)
    arguments.insert(arguments.begin(), "-s");
  ServerProcess::Setup process;
  process.arguments = std::move(arguments);
  process.in = ends.server_in;
  process.out = ends.server_out;
  process.file_size_limit = setup.file_size_limit;
  process.activated = setup.activated;
  process.environment = setup.environment;
  server_.emplace(process);
  // Kept open here, the client would never see the server's end of the stream.
  close(ends.server_in);
  if (ends.server_out != ends.server_in) close(ends.server_out);
}

void Session::End() {
  peer_->Disconnect();
  EXPECT_TRUE(ExitedWith(WaitForExit(), kExitOk));
}

testing::AssertionResult ExitedWith(const ExitReport& report, int status) {
  return ExitedWithOneOf(report, {status});
}

testing::AssertionResult ExitedWithOneOf(const ExitReport& report,
                                         const std::vector<int>& statuses) {
  if (report.status.has_value() &&
      std::find(statuses.begin(), statuses.end(), *report.status) !=
          statuses.end()) {
    return testing::AssertionSuccess();
  }
  testing::AssertionResult failure = testing::AssertionFailure();
  if (report.status.has_value()) {
    failure << "the server ended with status " << *report.status;
  } else {
    failure << "the server was ended by signal " << report.signal;
  }
  failure << " instead of";
  for (int status : statuses) failure << ' ' << status;
  return failure << "; standard error:\n" << report.standard_error;
}

testing::AssertionResult SameBytes(std::string_view actual,
                                   std::string_view expected) {
  if (actual == expected) return testing::AssertionSuccess();
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure()
           << actual.size() << " bytes instead of " << expected.size();
  }
  size_t at = 0;
  while (actual[at] == expected[at]) ++at;
  return testing::AssertionFailure()
         << "byte " << at << " of " << actual.size() << " is "
         << static_cast<int>(static_cast<unsigned char>(actual[at]))
         << " instead of "
         << static_cast<int>(static_cast<unsigned char>(expected[at]));
}

testing::AssertionResult HasError(const Reply& reply, uint32_t error) {
  if (reply.error == error) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "the reply is " << ErrorName(reply.error) << " instead of "
         << ErrorName(error) << (reply.message.empty() ? "" : ": ")
         << reply.message;
}

testing::AssertionResult HasType(const OptionAnswer& answer, uint32_t type) {
  if (answer.final_type == type) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "the answer is " << OptionReplyName(answer.final_type)
         << " instead of " << OptionReplyName(type)
         << (answer.message.empty() ? "" : ": ") << answer.message;
}

bool InCi() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && *ci != '\0' && std::string_view(ci) != "false";
}

}  // namespace nbdtest
