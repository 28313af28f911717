#include "server/access.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/errors.h"
#include "server/peer.h"

namespace nbdinetd {
namespace {

using Family = PeerIdentity::Family;

const char* OptionOf(AccessRules::Action action) {
  return action == AccessRules::Action::kAllow ? "--allow" : "--deny";
}

}  // namespace

std::string AccessRules::Rule::option() const {
  return absl::StrCat(OptionOf(action), "=", *text);
}

absl::Status AccessRules::Add(Action action, absl::string_view list,
                              Names names) {
  for (const absl::string_view who : absl::StrSplit(list, ',')) {
    absl::Status status = AddOne(action, who, names);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status AccessRules::AddOne(Action action, absl::string_view text,
                                 Names names) {
  const auto wrong = [&](absl::string_view reason) {
    return absl::InvalidArgumentError(
        absl::StrCat(OptionOf(action), "=", Quoted(text), ": ", reason));
  };
  auto owned = std::make_shared<const std::string>(text);
  const absl::StatusOr<Who> who = Who::Parse(*owned, names, /*ids=*/nullptr);
  if (!who.ok()) return wrong(who.status().message());
  if (who->is_of_tls()) {
    return wrong(
        "this is known only after the TLS handshake; use --rules=FILE, or "
        "--tls-allow");
  }
  has_groups_ |= who->kind == Who::Kind::kGroup;
  has_units_ |= who->kind == Who::Kind::kUnit;
  rules_.push_back({action, std::move(owned), *who});
  return absl::OkStatus();
}

bool AccessRules::Has(Family family, Action action) const {
  return std::any_of(rules_.begin(), rules_.end(), [&](const Rule& rule) {
    return rule.who.Covers(family) && rule.action == action;
  });
}

std::optional<std::string> AccessRules::WhyRefused(
    const PeerIdentity& peer) const {
  if (rules_.empty()) return std::nullopt;
  if (peer.family == Family::kUnknown) {
    return "it can't be identified, and --allow or --deny is given";
  }
  // Whether a rule is about the peer is then unknown.
  if (has_units_ && peer.family == Family::kUnix && !peer.unit.has_value()) {
    return absl::StrCat("its unit is unknown (", peer.why_no_unit,
                        "), and --allow or --deny names one");
  }
  const Rule* best = nullptr;
  for (const Rule& rule : rules_) {
    if (!rule.who.Matches(peer)) continue;
    if (best == nullptr || rule.rank() > best->rank() ||
        (rule.rank() == best->rank() && rule.action == Action::kDeny)) {
      best = &rule;
    }
  }
  if (best != nullptr) {
    if (best->action == Action::kAllow) return std::nullopt;
    return absl::StrCat("by ", best->option());
  }
  if (Has(peer.family, Action::kAllow)) {
    return absl::StrCat("no --allow for ", NameOf(peer.family),
                        " clients matches it");
  }
  if (Has(peer.family, Action::kDeny)) return std::nullopt;
  return absl::StrCat("no --allow or --deny names ", NameOf(peer.family),
                      " clients");
}

std::optional<std::string> AccessRules::WhyRefused(int fd) const {
  if (rules_.empty()) return std::nullopt;
  return WhyRefused(
      IdentifyPeer(fd, has_groups_ ? PeerGroups::kAll : PeerGroups::kPrimary,
                   has_units_ ? PeerUnit::kWanted : PeerUnit::kUnwanted));
}

std::string AccessRules::WordsOf(const Who& who, Family family) {
  switch (who.kind) {
    case Who::Kind::kCid:
      return absl::StrCat("the vsock client ", who.number);
    case Who::Kind::kUser:
      return absl::StrCat("Unix clients of user ", who.number);
    case Who::Kind::kGroup:
      return absl::StrCat("Unix clients of group ", who.number);
    case Who::Kind::kUnit:
      return absl::StrCat("Unix clients in the unit ", Quoted(who.pattern));
    case Who::Kind::kNetwork:
      break;
    default:
      return absl::StrCat("any ", NameOf(family), " client");
  }
  const bool is_ipv4 = family == Family::kIpv4;
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(is_ipv4 ? AF_INET : AF_INET6, who.address.data(), text,
            sizeof(text));
  return who.prefix_bits == (is_ipv4 ? 32 : 128)
             ? absl::StrCat("the ", NameOf(family), " client ", text)
             : absl::StrCat(NameOf(family), " clients in ", text, "/",
                            who.prefix_bits);
}

std::vector<std::string> AccessRules::InWords() const {
  std::vector<std::string> words;
  if (rules_.empty()) return words;
  const auto say = [&](bool allow, absl::string_view whom,
                       absl::string_view why) {
    words.push_back(
        absl::StrCat(allow ? "would let in " : "would refuse ", whom, why));
  };
  for (const Family family : kFamilies) {
    bool told_any = false;
    for (const Rule& rule : rules_) {
      if (!rule.who.Covers(family)) continue;
      say(rule.action == Action::kAllow, WordsOf(rule.who, family),
          absl::StrCat(" (", rule.option(), ")"));
      told_any |= rule.who.kind == Who::Kind::kEverybody ||
                  rule.who.kind == Who::Kind::kFamily;
    }
    if (told_any) continue;
    const bool allows = Has(family, Action::kAllow);
    const bool denies = Has(family, Action::kDeny);
    if (allows || denies) {
      say(!allows, absl::StrCat("other ", NameOf(family), " clients"), "");
    } else {
      say(false, absl::StrCat(NameOf(family), " clients"),
          ", since no rule names them");
    }
  }
  say(false, "clients that can't be identified", ", such as pipes");
  words.push_back(
      "of several rules that match, the most specific one holds, and of equal "
      "ones --deny");
  return words;
}

}  // namespace nbdinetd
