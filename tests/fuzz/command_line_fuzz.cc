// The command line, and the times and the rules of access in it: whatever is
// asked, the answer is options that keep their promises, or a sentence.
//
// An input is a letter, and then a time (t), rules of access (a), one a line
// with
// + for --allow and - for --deny, or words that end in a zero byte.

#include <getopt.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/time_span.h"
#include "cli/options.h"
#include "fuzz/simulation.h"
#include "server/access.h"
#include "support/wire.h"

namespace {

using nbdfuzz::Require;

void TryTimeSpan(const std::string& text) {
  const std::optional<absl::Duration> time = nbdinetd::ParseTimeSpan(text);
  if (!time.has_value()) return;
  Require(*time > absl::ZeroDuration(), "a time is not positive");
  // Blanks around it change nothing, and twice as long is no shorter.
  const std::string padded = " " + text + "\t";
  Require(nbdinetd::ParseTimeSpan(padded) == time, "blanks change a time");
  const bool is_word = text.find_first_of("0123456789") == std::string::npos;
  if (is_word || *time == absl::InfiniteDuration()) return;
  const auto longer = nbdinetd::ParseTimeSpan(text + " 1s");
  Require(!longer.has_value() || *longer > *time ||
              *time > absl::Hours(uint64_t{1} << 40),
          "a second more is not longer");
}

using nbdinetd::AccessRules;
using nbdinetd::PeerIdentity;

struct Somebody {
  PeerIdentity peer;
  const char* who;  // no rule is more specific
};

std::vector<Somebody> Everybody() {
  std::vector<Somebody> all(4);
  all[0].peer.family = PeerIdentity::Family::kIpv4;
  all[0].peer.address = {10, 1, 2, 3};
  all[0].who = "10.1.2.3";
  all[1].peer.family = PeerIdentity::Family::kIpv6;
  all[1].peer.address = {0xfd, 0, 0, 1};
  all[1].who = "fd00:1::";
  all[2].peer.family = PeerIdentity::Family::kUnix;
  all[2].peer.uid = 1000;
  all[2].peer.gids = {1000, 4};
  all[2].who = "uid:1000";
  all[3].peer.family = PeerIdentity::Family::kVsock;
  all[3].peer.cid = 3;
  all[3].who = "vsock:3";
  return all;
}

void TryAccess(std::string_view text) {
  using Action = AccessRules::Action;
  std::vector<std::pair<Action, std::string>> lists;
  AccessRules rules;
  while (!text.empty()) {
    const std::string line(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.empty()) continue;
    const Action action = line[0] == '-' ? Action::kDeny : Action::kAllow;
    AccessRules one;
    const absl::Status status = one.Add(action, line.substr(1));
    Require(status.ok() || !status.message().empty(),
            "no word of what is wrong");
    Require(!status.ok() || !one.empty(), "a rule that is none");
    if (!status.ok()) continue;
    lists.emplace_back(action, line.substr(1));
    Require(rules.Add(action, line.substr(1)).ok(), "a rule is refused later");
  }
  AccessRules backwards;
  for (auto list = lists.rbegin(); list != lists.rend(); ++list) {
    Require(backwards.Add(list->first, list->second).ok(), "it depends");
  }
  for (const Somebody& somebody : Everybody()) {
    const bool refused = rules.WhyRefused(somebody.peer).has_value();
    Require(backwards.WhyRefused(somebody.peer).has_value() == refused,
            "the order of rules matters");
    AccessRules denied = rules;
    Require(denied.Add(Action::kDeny, somebody.who).ok() &&
                denied.WhyRefused(somebody.peer).has_value(),
            "a denied peer comes in");
    AccessRules allowed = rules;
    Require(allowed.Add(Action::kAllow, somebody.who).ok() &&
                (refused || !allowed.WhyRefused(somebody.peer).has_value()),
            "a peer is refused since it is allowed");
  }
  Require(rules.WhyRefused(PeerIdentity()).has_value() == !lists.empty(),
          "whoever can't be told comes in, or nobody is told apart");
  Require(rules.InWords().empty() == lists.empty(), "rules without words");
}

void TryCommandLine(std::string_view bytes) {
  std::vector<std::string> words = {"nbdinetd"};
  while (!bytes.empty() && words.size() < 64) {
    const size_t end = std::min(bytes.find('\0'), bytes.size());
    words.emplace_back(bytes.substr(0, end));
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  optind = 0;  // getopt(3): "reinitialize"
  nbdinetd::Options options;
  const absl::Status status = nbdinetd::ParseOptions(
      static_cast<int>(words.size()), argv.data(), &options);
  for (const absl::Duration time :
       {options.timeouts.handshake, options.timeouts.stall,
        options.timeouts.idle}) {
    Require(time > absl::ZeroDuration(), "a timeout is not positive");
  }
  if (!status.ok()) {
    Require(status.code() == absl::StatusCode::kInvalidArgument,
            "a wrong command line is not called that");
    Require(!status.message().empty(), "no word about what is wrong");
    return;
  }
  Require(options.listen.vsock || options.listen.port <= 65535,
          "a port out of range");
  if (options.negotiated.has_value()) {
    Require(!options.negotiated->base_allocation ||
                options.negotiated->style != nbdinetd::ReplyStyle::kSimple,
            "a metadata context with simple replies");
    Require(options.tls.mode == nbdinetd::TlsMode::kOff &&
                options.directory.empty() &&
                options.activation.own_socket.empty(),
            "what has been negotiated doesn't fit");
  }
  Require(nbdtest::IsProtocolString(options.description) &&
              nbdtest::IsProtocolString(options.export_name.value_or("")),
          "a string that NBD doesn't allow");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.empty()) return 0;
  if (bytes[0] == 't') {
    TryTimeSpan(bytes.substr(1));
  } else if (bytes[0] == 'a') {
    TryAccess(std::string_view(bytes).substr(1));
  } else {
    TryCommandLine(std::string_view(bytes).substr(1));
  }
  return 0;
}
