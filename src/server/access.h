// Access control: the rules of --allow and --deny.
//
// The most specific rule that matches a peer decides; of two equally specific
// rules, --deny does. The order, the most specific first:
//   IPv4, IPv6    the longer prefix; an address has the longest
//   Unix          a user, then a group, then any Unix client
//   vsock         a CID, then any vsock client
//   all families  "any" comes last
// A peer that matches no rule is refused, except when its family has rules and
// all of them are --deny: these are exceptions, and other peers may connect. A
// family without rules is therefore refused, and so is a peer that can't be
// identified.
//
// Rejected: allow before deny, as in nbdkit's ip filter, where a --deny inside
// an allowed network has no effect; and the order of the command line, which is
// hard to see in a unit whose options come from two places. The recommendation
// of nbdkit's manual, allow=GOOD deny=all, has the same meaning here.
//
// Threads: any, once all rules have been added.
#ifndef NBDINETD_SERVER_ACCESS_H_
#define NBDINETD_SERVER_ACCESS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/peer.h"

namespace nbdinetd {

class AccessRules {
 public:
  enum class Action { kAllow, kDeny };
  // Whether a user or group is looked up by name, which may ask another
  // process, or taken as known, for a process that only checks the form.
  enum class Names { kLookUp, kTrust };

  // Adds a rule for each WHO of a comma-separated list; the manual page has its
  // forms. Names of users and groups are looked up, numbers aren't.
  // InvalidArgument names the wrong WHO and the reason.
  absl::Status Add(Action action, absl::string_view list,
                   Names names = Names::kLookUp);

  // Without rules, every peer may connect.
  bool empty() const { return rules_.empty(); }

  // The reason why this peer is refused, as part of a sentence; nullopt if it
  // may connect.
  std::optional<std::string> WhyRefused(const PeerIdentity& peer) const;
  // The same for the peer of a socket or pipe. Makes no system call without
  // rules.
  std::optional<std::string> WhyRefused(int fd) const;

  // The rules for people: a line for each rule, and one for the rest of each
  // family.
  std::vector<std::string> InWords() const;

 private:
  using Family = PeerIdentity::Family;
  struct Rule {
    // kAny is the whole family; kPrefix is for IPv4 and IPv6, kNumber for a
    // CID.
    enum class Kind { kAny, kPrefix, kNumber, kUser, kGroup };
    Action action = Action::kAllow;
    Family family = Family::kUnknown;
    Kind kind = Kind::kAny;
    // A greater value is more specific; comparable within a family.
    int specificity = 0;
    std::array<uint8_t, 16> address = {};
    int prefix_bits = 0;
    uint32_t number = 0;
    std::string option;  // as given: --allow=WHO
  };

  absl::Status AddOne(Action action, absl::string_view who, Names names);
  void Keep(Rule rule);
  void KeepAny(const Rule& base, Family family);
  absl::Status AddNumbered(Rule rule, absl::string_view who, Names names);
  absl::Status AddNetwork(Rule rule, absl::string_view who);

  static bool Matches(const Rule& rule, const PeerIdentity& peer);
  static std::string WordsOf(const Rule& rule);
  // Whether the family has rules of this action.
  bool Has(Family family, Action action) const;

  std::vector<Rule> rules_;
  bool has_groups_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_ACCESS_H_
