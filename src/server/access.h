// Who may connect: the rules of --allow and --deny.
//
// One rule decides: of all that match a peer the most specific one, and of two
// that are equally specific --deny. Specific is, in this order,
//   IPv4, IPv6    the longer prefix (an address is the longest);
//   Unix          a user, then a group, then any Unix client;
//   vsock         a CID, then any vsock client;
//   all of them   anybody at all comes last.
// If none matches, a peer is refused; but if its family has rules of --deny
// only, they name the exceptions, and it may connect. So a family that no rule
// names is refused, and so is a peer that can't be identified.
//
// Rejected: allow before deny, as nbdkit's ip filter has it, where a --deny
// within an allowed network does nothing; and the order of the command line,
// which is hard to see in a unit whose options come from two places. What
// nbdkit's manual recommends, allow=GOOD deny=all, means the same here.
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

  // Adds a rule for each WHO of a list with commas; see the manual for its
  // forms. Names of users and groups are looked up here, numbers are not.
  // InvalidArgument says what is wrong with which.
  absl::Status Add(Action action, absl::string_view list);

  // Without rules everybody may connect.
  bool empty() const { return rules_.empty(); }

  // Why this peer is refused, as part of a sentence; nullopt when it may
  // connect.
  std::optional<std::string> WhyRefused(const PeerIdentity& peer) const;
  // The same for who is at the other end of a socket, or pipe. Makes no system
  // call when there are no rules.
  std::optional<std::string> WhyRefused(int fd) const;

  // What the rules come to, for people: a line for each rule, and for the rest
  // of each family.
  std::vector<std::string> InWords() const;

 private:
  using Family = PeerIdentity::Family;
  struct Rule {
    // kAny is all of the family; kPrefix is for IPv4 and IPv6, kNumber for
    // a CID.
    enum class Kind { kAny, kPrefix, kNumber, kUser, kGroup };
    Action action = Action::kAllow;
    Family family = Family::kUnknown;
    Kind kind = Kind::kAny;
    // The more specific, the greater; comparable within a family.
    int specificity = 0;
    std::array<uint8_t, 16> address = {};
    int prefix_bits = 0;
    uint32_t number = 0;
    std::string option;  // as it was given: --allow=WHO
  };

  absl::Status AddOne(Action action, absl::string_view who);
  void Keep(Rule rule);
  void KeepAny(const Rule& base, Family family);
  absl::Status AddNumbered(Rule rule, absl::string_view who,
                           absl::string_view kind, absl::string_view value);
  absl::Status AddNetwork(Rule rule, absl::string_view who);

  static bool Matches(const Rule& rule, const PeerIdentity& peer);
  static std::string WordsOf(const Rule& rule);
  // Whether a family has rules of this action.
  bool Has(Family family, Action action) const;

  std::vector<Rule> rules_;
  bool has_groups_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_ACCESS_H_
