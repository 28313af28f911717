// The file of --rules, and what a client has a say in: the subject of its
// certificate, its PSK identity, the name of an export. Whatever they are, the
// answer is the rules or a line of complaint; a wrong line gives nobody
// anything; and the globs agree with the system's.
//
// An input is the file, a zero byte, what the client has, a zero byte, and the
// name of an export. What the client has is its subject, issuer and PSK
// identity at once.

#include <fnmatch.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "access/client_rules.h"
#include "access/glob.h"
#include "access/rule_line.h"
#include "access/subject_pattern.h"
#include "base/transfer_limits.h"
#include "fuzz/simulation.h"

namespace {

using nbdfuzz::Require;
using nbdinetd::ClientRules;
using nbdinetd::PeerIdentity;
using nbdinetd::TlsIdentity;

std::string TakePart(std::string_view* rest) {
  const size_t end = std::min(rest->find('\0'), rest->size());
  const std::string part(rest->substr(0, end));
  rest->remove_prefix(std::min(end + 1, rest->size()));
  return part;
}

PeerIdentity Peer(bool is_unix) {
  PeerIdentity peer;
  peer.family =
      is_unix ? PeerIdentity::Family::kUnix : PeerIdentity::Family::kIpv4;
  peer.address = {192, 0, 2, 7};
  peer.uid = 7;
  peer.gids = {8, 9};
  peer.unit = "x.service";
  return peer;
}

// What fnmatch() takes for the same.
void CheckGlob(const std::string& pattern, const std::string& name) {
  if (pattern.size() > 40 || name.size() > 40 ||
      pattern.find_first_of("[]\\") != std::string::npos ||
      std::any_of(name.begin(), name.end(),
                  [](unsigned char c) { return c >= 0x80; })) {
    return;
  }
  Require(nbdinetd::Glob(pattern).Matches(name) ==
              (fnmatch(pattern.c_str(), name.c_str(), 0) == 0),
          "a glob matches something else");
}

void CheckComplaint(const absl::Status& status) {
  Require(status.code() == absl::StatusCode::kFailedPrecondition,
          "a wrong file isn't called that");
  const std::string message(status.message());
  Require(message.rfind("\"rules\" line ", 0) == 0, "no line is named");
  Require(std::none_of(message.begin(), message.end(),
                       [](unsigned char c) { return c < 0x20 || c == 0x7f; }),
          "a complaint of several lines");
}

void CheckRules(const std::string& file, const PeerIdentity& peer,
                const TlsIdentity& tls, const std::string& name) {
  const auto rules = ClientRules::Parse(file, "rules", peer);
  if (!rules.ok()) {
    CheckComplaint(rules.status());
    return;
  }
  // Nobody gets more by not saying who he is than by saying it.
  const auto taking =
      ClientRules::Parse(absl::StrCat(file, "\npsk:* -\n"), "rules", peer);
  Require(!taking.ok() || taking->For(TlsIdentity()).empty(),
          "whoever says nothing gets something");
  for (const TlsIdentity& identity : {TlsIdentity(), tls}) {
    const auto grants = rules->For(identity);
    const auto decision = grants.For(name);
    Require(!decision.has_value() || !grants.empty(), "a grant of nothing");
    Require(!grants.WhyNot().empty(), "no reason");
    if (!decision.has_value()) continue;
    Require(decision->grant.mode.has_value(), "a grant without a mode");
    const nbdinetd::TransferLimits limits =
        nbdinetd::TransferLimitsIn(decision->grant.limits);
    const bool has_limits = limits.bytes.given + limits.requests.given != 0;
    Require(has_limits == !decision->grant.limits.empty(),
            "limits of a line are lost");
    Require(!rules->gives_nothing(/*tls_is_possible=*/true),
            "whoever gets nothing gets something");
    // A line more that refuses everybody like this one takes nothing away from
    // who is known by more.
    const auto more =
        ClientRules::Parse(absl::StrCat(file, "\n* -\n"), "rules", peer);
    if (!more.ok()) continue;  // too many lines
    const auto again = more->For(identity).For(name);
    Require(!again.has_value() || again->line == decision->line,
            "another line decides");
    // And a wrong one gives nobody anything.
    Require(
        !ClientRules::Parse(absl::StrCat(file, "\n*\n"), "rules", peer).ok(),
        "a wrong line is passed over");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const std::string file = TakePart(&rest);
  const std::string identity = TakePart(&rest);
  const std::string name = TakePart(&rest);
  // A name service would be asked for these.
  if (file.find("uid:") == std::string::npos &&
      file.find("gid:") == std::string::npos) {
    const TlsIdentity tls = {identity, identity, identity};
    CheckRules(file, Peer(/*is_unix=*/false), tls, name);
    CheckRules(file, Peer(/*is_unix=*/true), tls, name);
  }
  const std::string line = file.substr(0, file.find('\n'));
  if (nbdinetd::CheckGlob(line).ok()) CheckGlob(line, name);
  if (nbdinetd::CheckSubjectPattern(line).ok()) {
    nbdinetd::SubjectMatches(line, identity);
  }
  return 0;
}
