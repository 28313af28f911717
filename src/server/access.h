// Access control: the rules of --allow and --deny.
//
// Each is about a WHO (access/who.h), which has the order: the most specific
// rule that matches a peer decides, and of two equally specific rules, --deny
// does. A peer that matches no rule is refused, except when its family has
// rules and all of them are --deny: these are exceptions, and other peers may
// connect. A family without rules is therefore refused, and so is a peer that
// can't be identified.
//
// Rejected: allow before deny, as in nbdkit's ip filter, where a --deny inside
// an allowed network has no effect; and the order of the command line, which is
// hard to see in a unit whose options come from two places. The recommendation
// of nbdkit's manual, allow=GOOD deny=all, has the same meaning here.
//
// Threads: any, once all rules have been added.
#ifndef NBDINETD_SERVER_ACCESS_H_
#define NBDINETD_SERVER_ACCESS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "access/peer_identity.h"
#include "access/who.h"

namespace nbdinetd {

class AccessRules {
 public:
  enum class Action { kAllow, kDeny };
  using Names = WhoNames;

  // Adds a rule for each WHO of a comma-separated list; the manual page has its
  // forms. Names of users and groups are looked up, numbers aren't.
  // InvalidArgument names the wrong WHO and the reason; one that TLS tells is
  // wrong here, since it isn't known yet when a peer connects.
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
    Action action;
    std::shared_ptr<const std::string> text;  // WHO, to which `who` refers
    Who who;

    std::string option() const;  // as given: --allow=WHO
    uint32_t rank() const { return who.Rank(action == Action::kDeny); }
  };

  absl::Status AddOne(Action action, absl::string_view text, Names names);

  static std::string WordsOf(const Who& who, Family family);
  // Whether the family has rules of this action.
  bool Has(Family family, Action action) const;

  std::vector<Rule> rules_;
  bool has_groups_ = false;
  bool has_units_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SERVER_ACCESS_H_
