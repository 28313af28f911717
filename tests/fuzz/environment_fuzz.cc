// What a superserver leaves to its process: descriptors, LISTEN_FDS and its
// like, and who the peer is. Whatever they say, no descriptor is lost or closed
// twice, standard output and error end up away from the client, and what isn't
// served is refused with a sentence.
//
// An input is a byte of options, a byte how many descriptors there are, two
// bytes for each from 0 on, and then NAME=value words that end in a zero byte.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/descriptors.h"
#include "fuzz/simulation.h"
#include "server/activation.h"
#include "server/peer.h"

namespace {

using namespace nbdfuzz;  // NOLINT
using Kind = Descriptors::Kind;

constexpr const char* kNames[] = {"LISTEN_FDS",     "LISTEN_PID",
                                  "LISTEN_FDNAMES", "REMOTE_ADDR",
                                  "REMOTE_HOST",    "REMOTE_PORT"};

// Any NAME=value whose name is one of ours; "LISTEN_PID=P" is this process.
void SetEnvironment(std::string_view words) {
  for (const char* name : kNames) unsetenv(name);
  while (!words.empty()) {
    const std::string word(words.substr(0, words.find('\0')));
    words.remove_prefix(std::min(words.size(), word.size() + 1));
    const size_t equals = word.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = word.substr(0, equals);
    std::string value = word.substr(equals + 1);
    if (name == "LISTEN_PID" && value == "P") value = std::to_string(getpid());
    if (std::find(std::begin(kNames), std::end(kNames), name) !=
        std::end(kNames)) {
      setenv(name.c_str(), value.c_str(), 1);
    }
  }
}

// Which files the client has, as far as the result knows.
void CheckConnection(const nbdinetd::Connection& connection,
                     Descriptors& descriptors) {
  std::set<int> client;
  for (const int fd : {connection.input.get(), connection.output.get()}) {
    if (fd < 0) continue;
    const auto* found = descriptors.Find(fd);
    Require(fd > STDERR_FILENO, "the client has a standard descriptor");
    Require(found != nullptr, "the client has no descriptor");
    Require(found->close_on_exec,
            "the client's descriptor isn't close-on-exec");
    client.insert(found->file.number);
  }
  Require(!client.empty(), "a connection without a descriptor");
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    Require(client.count(descriptors.Find(fd)->file.number) == 0,
            "a standard descriptor is still the client's");
  }
  Require(!connection.peer.empty(), "nobody knows who the peer is");
  Require(nbdfuzz::IsOneLine(connection.peer),
          "the peer's name would break a line");
}

void Check(const nbdinetd::Inherited& inherited, Descriptors& descriptors,
           const nbdinetd::ActivationOptions& options) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    Require(descriptors.Find(fd) != nullptr,
            "a standard descriptor isn't open");
  }
  for (const char* name : {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}) {
    Require(getenv(name) == nullptr, "a variable is left for others");
  }
  if (!inherited.status.ok()) {
    nbdfuzz::RequireSentence(inherited.status.message());
    return;
  }
  if (inherited.connection.has_value()) {
    Require(inherited.listeners.empty(), "a connection beside a listener");
    CheckConnection(*inherited.connection, descriptors);
  }
  Require(!options.single || inherited.connection.has_value(),
          "--single without a connection");
  Require(inherited.connection.has_value() || !inherited.listeners.empty() ||
              options.foreground || !options.own_socket.empty() ||
              descriptors.Find(STDIN_FILENO)->file.kind == Kind::kTerminal,
          "stand-alone, and nobody has asked for it");
  for (const nbdinetd::UniqueFd& listener : inherited.listeners) {
    const auto* found = descriptors.Find(listener.get());
    Require(found != nullptr && found->file.kind == Kind::kListener &&
                found->close_on_exec,
            "a listener that is none");
  }
  for (const nbdinetd::NamedFile& file : inherited.files) {
    const auto* found = descriptors.Find(file.fd.get());
    Require(found != nullptr && found->close_on_exec &&
                (found->file.kind == Kind::kFile ||
                 found->file.kind == Kind::kBlockDevice),
            "a file that is none");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto next = [&bytes] {
    const auto byte = static_cast<uint8_t>(bytes.empty() ? 0 : bytes[0]);
    bytes.remove_prefix(std::min<size_t>(1, bytes.size()));
    return byte;
  };
  const uint8_t asked = next();
  nbdinetd::ActivationOptions options;
  options.single = (asked & 1) != 0;
  options.foreground = (asked & 2) != 0;
  if ((asked & 4) != 0) options.own_socket = "--port";
  const int count = next() % Descriptors::kMax;
  Descriptors descriptors;
  size_t beyond = 0;  // descriptors that nobody may take
  for (int fd = 0; fd < count; ++fd) {
    const auto kind =
        static_cast<Kind>(next() % static_cast<int>(Kind::kKinds));
    const uint8_t more = next();
    if (kind == Kind::kClosed) continue;
    // The same file may be there several times.
    const int number = (more & 0x80) != 0 && fd > 0 ? more % fd : fd;
    const auto* same = descriptors.Find(number);
    descriptors.Add(fd, number != fd && same != nullptr
                            ? same->file
                            : Descriptors::File{kind, fd, more});
    beyond += fd > STDERR_FILENO;
  }
  SetEnvironment(bytes);
  std::vector<Descriptors::File> connections;
  {
    const nbdinetd::Inherited inherited = nbdinetd::TakeInherited(options);
    Check(inherited, descriptors, options);
    if (inherited.connection.has_value()) {
      connections.push_back(
          descriptors.Find(inherited.connection->input.get())->file);
    }
    for (const nbdinetd::ConnectionFd& other : inherited.surplus) {
      connections.push_back(descriptors.Find(other.get())->file);
    }
  }
  for (const Descriptors::File& file : connections) {
    Require(file.kind == Kind::kPipe || descriptors.has_ended(file),
            "a connection is closed, and hasn't ended");
  }
  // What was taken has been closed; what wasn't is still there.
  Require(descriptors.count() <= beyond + 3, "a descriptor is left open");
  const std::string peer = nbdinetd::PeerFromEnvironment();
  Require(nbdfuzz::IsOneLine(peer), "the peer's name would break a line");
  for (const char* name : kNames) unsetenv(name);
  return 0;
}
