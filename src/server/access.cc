#include "server/access.h"

#include <arpa/inet.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

using Family = PeerIdentity::Family;

constexpr Family kFamilies[] = {Family::kIpv4, Family::kIpv6, Family::kUnix,
                                Family::kVsock};

// The specificity of a rule for all families.
constexpr int kEverybody = -1;

// The id that no user or group has; chown(2) treats it as "unchanged".
constexpr uint32_t kNobodysId = 0xffffffff;

const char* NameOf(Family family) {
  switch (family) {
    case Family::kIpv4:
      return "IPv4";
    case Family::kIpv6:
      return "IPv6";
    case Family::kUnix:
      return "Unix";
    case Family::kVsock:
      return "vsock";
    case Family::kUnknown:
      break;
  }
  return "unknown";
}

const char* OptionOf(AccessRules::Action action) {
  return action == AccessRules::Action::kAllow ? "--allow" : "--deny";
}

bool InNetwork(const std::array<uint8_t, 16>& address,
               const std::array<uint8_t, 16>& network, int prefix_bits) {
  const auto whole = static_cast<size_t>(prefix_bits / 8);
  if (std::memcmp(address.data(), network.data(), whole) != 0) return false;
  const int rest = prefix_bits % 8;
  return rest == 0 || (address[whole] ^ network[whole]) >> (8 - rest) == 0;
}

void ClearHostBits(std::array<uint8_t, 16>* address, int prefix_bits) {
  for (int bit = prefix_bits; bit < 128; ++bit) {
    (*address)[static_cast<size_t>(bit / 8)] &=
        static_cast<uint8_t>(~(0x80 >> (bit % 8)));
  }
}

// Accepts digits only: no sign, no blanks.
bool ParseNumber(absl::string_view text, uint32_t* number) {
  return !text.empty() &&
         text.find_first_not_of("0123456789") == absl::string_view::npos &&
         absl::SimpleAtoi(text, number);
}

// Looks up the number of a user or group by name. Only names load the name
// service, which may query a directory service.
bool FindId(absl::string_view kind, const std::string& name, uint32_t* id) {
  if (kind == "uid") {
    const passwd* entry = getpwnam(name.c_str());
    if (entry != nullptr) *id = entry->pw_uid;
    return entry != nullptr;
  }
  const group* entry = getgrnam(name.c_str());
  if (entry != nullptr) *id = entry->gr_gid;
  return entry != nullptr;
}

absl::Status Wrong(AccessRules::Action action, absl::string_view who,
                   absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat(OptionOf(action), "=", Quoted(who), ": ", reason));
}

}  // namespace

absl::Status AccessRules::Add(Action action, absl::string_view list,
                              Names names) {
  for (const absl::string_view who : absl::StrSplit(list, ',')) {
    absl::Status status = AddOne(action, who, names);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status AccessRules::AddOne(Action action, absl::string_view who,
                                 Names names) {
  Rule rule;
  rule.action = action;
  rule.option = absl::StrCat(OptionOf(action), "=", who);
  // nbdkit's words, in both of its spellings.
  absl::string_view any = who;
  if (absl::ConsumePrefix(&any, "any") || absl::ConsumePrefix(&any, "all")) {
    bool known = false;
    for (const Family family : kFamilies) {
      if (!any.empty() && !absl::EqualsIgnoreCase(any, NameOf(family)))
        continue;
      rule.specificity = any.empty() ? kEverybody : 0;
      KeepAny(rule, family);
      known = true;
    }
    if (known) return absl::OkStatus();
  }
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(who, absl::MaxSplits(':', 1));
  const absl::string_view kind =
      absl::StrContains(who, ':') ? parts.first : absl::string_view();
  if (kind == "pid") {
    return Wrong(action, who,
                 "process ids are used again, and prove nothing; use uid: or "
                 "gid:");
  }
  if (who == "unix:" || who == "vsock:") {
    KeepAny(rule, kind == "unix" ? Family::kUnix : Family::kVsock);
    return absl::OkStatus();
  }
  if (kind == "unix") {
    return Wrong(action, who,
                 "a Unix client has no path of its own; use unix: for all of "
                 "them, or uid: or gid:");
  }
  if (kind == "uid" || kind == "gid" || kind == "vsock") {
    return AddNumbered(std::move(rule), who, names);
  }
  return AddNetwork(std::move(rule), who);
}

void AccessRules::Keep(Rule rule) { rules_.push_back(std::move(rule)); }

void AccessRules::KeepAny(const Rule& base, Family family) {
  Rule rule = base;
  rule.family = family;
  rule.kind = Rule::Kind::kAny;
  Keep(std::move(rule));
}

absl::Status AccessRules::AddNumbered(Rule rule, absl::string_view who,
                                      Names names) {
  const auto [kind, value] = std::pair<absl::string_view, absl::string_view>(
      absl::StrSplit(who, absl::MaxSplits(':', 1)));
  const bool is_number = ParseNumber(value, &rule.number);
  if (kind == "vsock") {
    if (!is_number) {
      return Wrong(rule.action, who,
                   "a CID is a number; use vsock: for all of them");
    }
    rule.family = Family::kVsock;
    rule.kind = Rule::Kind::kNumber;
    rule.specificity = 1;
    Keep(std::move(rule));
    return absl::OkStatus();
  }
  const bool is_user = kind == "uid";
  const bool trusted = names == Names::kTrust && !is_number && !value.empty();
  const bool found =
      is_number || trusted ||
      (!value.empty() && FindId(kind, std::string(value), &rule.number));
  if (!found || rule.number == kNobodysId) {
    return Wrong(rule.action, who,
                 is_user ? "there is no such user" : "there is no such group");
  }
  rule.family = Family::kUnix;
  rule.kind = is_user ? Rule::Kind::kUser : Rule::Kind::kGroup;
  rule.specificity = is_user ? 2 : 1;
  has_groups_ |= !is_user;
  Keep(std::move(rule));
  return absl::OkStatus();
}

absl::Status AccessRules::AddNetwork(Rule rule, absl::string_view who) {
  const size_t slash = who.find('/');
  const std::string address(who.substr(0, slash));
  int longest = 0;
  // inet_pton() accepts neither host names nor zones, so that no resolver is
  // queried.
  if (inet_pton(AF_INET, address.c_str(), rule.address.data()) == 1) {
    rule.family = Family::kIpv4;
    longest = 32;
  } else if (inet_pton(AF_INET6, address.c_str(), rule.address.data()) == 1) {
    rule.family = Family::kIpv6;
    longest = 128;
  } else {
    return Wrong(rule.action, who,
                 absl::StrContains(address, '%')
                     ? "an address has no interface here; leave out what "
                       "follows the %"
                     : "this is no address, network, uid:USER, gid:GROUP, "
                       "unix:, vsock: or vsock:CID");
  }
  uint32_t bits = static_cast<uint32_t>(longest);
  if (slash != absl::string_view::npos &&
      (!ParseNumber(who.substr(slash + 1), &bits) ||
       bits > static_cast<uint32_t>(longest))) {
    return Wrong(
        rule.action, who,
        absl::StrCat("the length of an ", NameOf(rule.family),
                     " network's prefix is a number from 0 to ", longest));
  }
  rule.prefix_bits = static_cast<int>(bits);
  in6_addr in6;
  std::memcpy(&in6, rule.address.data(), sizeof(in6));
  if (rule.family == Family::kIpv6 && IN6_IS_ADDR_V4MAPPED(&in6)) {
    // A shorter prefix would cover IPv6 clients in ::/80, for example, and
    // match no IPv4 client.
    if (rule.prefix_bits < 96) {
      return Wrong(
          rule.action, who,
          "an IPv4 network that is written as an IPv6 one has a prefix "
          "of 96 or more");
    }
    rule.family = Family::kIpv4;
    rule.prefix_bits -= 96;
    std::memmove(rule.address.data(), rule.address.data() + 12, 4);
  }
  ClearHostBits(&rule.address, rule.prefix_bits);
  rule.kind = Rule::Kind::kPrefix;
  rule.specificity = rule.prefix_bits;
  Keep(std::move(rule));
  return absl::OkStatus();
}

bool AccessRules::Matches(const Rule& rule, const PeerIdentity& peer) {
  if (rule.family != peer.family) return false;
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return true;
    case Rule::Kind::kPrefix:
      return InNetwork(peer.address, rule.address, rule.prefix_bits);
    case Rule::Kind::kNumber:
      return peer.cid == rule.number;
    case Rule::Kind::kUser:
      return peer.uid == rule.number;
    case Rule::Kind::kGroup:
      return std::find(peer.gids.begin(), peer.gids.end(), rule.number) !=
             peer.gids.end();
  }
  return false;
}

bool AccessRules::Has(Family family, Action action) const {
  return std::any_of(rules_.begin(), rules_.end(), [&](const Rule& rule) {
    return rule.family == family && rule.action == action;
  });
}

std::optional<std::string> AccessRules::WhyRefused(
    const PeerIdentity& peer) const {
  if (rules_.empty()) return std::nullopt;
  if (peer.family == Family::kUnknown) {
    return "it can't be identified, and --allow or --deny is given";
  }
  const Rule* best = nullptr;
  for (const Rule& rule : rules_) {
    if (!Matches(rule, peer)) continue;
    if (best == nullptr || rule.specificity > best->specificity ||
        (rule.specificity == best->specificity &&
         rule.action == Action::kDeny)) {
      best = &rule;
    }
  }
  if (best != nullptr) {
    if (best->action == Action::kAllow) return std::nullopt;
    return absl::StrCat("by ", best->option);
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
      IdentifyPeer(fd, has_groups_ ? PeerGroups::kAll : PeerGroups::kPrimary));
}

std::string AccessRules::WordsOf(const Rule& rule) {
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return absl::StrCat("any ", NameOf(rule.family), " client");
    case Rule::Kind::kNumber:
      return absl::StrCat("the vsock client ", rule.number);
    case Rule::Kind::kUser:
      return absl::StrCat("Unix clients of user ", rule.number);
    case Rule::Kind::kGroup:
      return absl::StrCat("Unix clients of group ", rule.number);
    case Rule::Kind::kPrefix:
      break;
  }
  const bool is_ipv4 = rule.family == Family::kIpv4;
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(is_ipv4 ? AF_INET : AF_INET6, rule.address.data(), text,
            sizeof(text));
  return rule.prefix_bits == (is_ipv4 ? 32 : 128)
             ? absl::StrCat("the ", NameOf(rule.family), " client ", text)
             : absl::StrCat(NameOf(rule.family), " clients in ", text, "/",
                            rule.prefix_bits);
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
      if (rule.family != family) continue;
      say(rule.action == Action::kAllow, WordsOf(rule),
          absl::StrCat(" (", rule.option, ")"));
      told_any |= rule.kind == Rule::Kind::kAny;
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
