#include "access/who.h"

#include <arpa/inet.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "access/glob.h"
#include "access/subject_pattern.h"

namespace nbdinetd {
namespace {

using Family = PeerIdentity::Family;
using Kind = Who::Kind;

// The id that no user or group has; chown(2) treats it as "unchanged".
constexpr uint32_t kNobodysId = 0xffffffff;

bool InNetwork(const std::array<uint8_t, 16>& address,
               const std::array<uint8_t, 16>& network, int prefix_bits) {
  const auto whole = static_cast<size_t>(prefix_bits / 8);
  if (std::memcmp(address.data(), network.data(), whole) != 0) return false;
  const int rest = prefix_bits % 8;
  return rest == 0 || (address[whole] ^ network[whole]) >> (8 - rest) == 0;
}

void ClearHostBits(std::array<uint8_t, 16>* address, int prefix_bits) {
  const auto whole = static_cast<size_t>(prefix_bits / 8);
  if (whole == address->size()) return;
  (*address)[whole] &= static_cast<uint8_t>(0xff00 >> (prefix_bits % 8));
  std::fill(address->begin() + static_cast<ptrdiff_t>(whole) + 1,
            address->end(), uint8_t{0});
}

// Accepts digits only: no sign, no blanks.
bool ParseNumber(absl::string_view text, uint32_t* number) {
  return !text.empty() &&
         text.find_first_not_of("0123456789") == absl::string_view::npos &&
         absl::SimpleAtoi(text, number);
}

// Looks up the number of a user or group by name. Only names load the name
// service, which may query a directory service.
std::optional<uint32_t> LookUpId(bool is_user, const std::string& name) {
  if (is_user) {
    const passwd* entry = getpwnam(name.c_str());
    return entry == nullptr ? std::nullopt : std::make_optional(entry->pw_uid);
  }
  const group* entry = getgrnam(name.c_str());
  return entry == nullptr ? std::nullopt : std::make_optional(entry->gr_gid);
}

std::optional<uint32_t> FindId(bool is_user, const std::string& name,
                               KnownIds* ids) {
  if (ids == nullptr) return LookUpId(is_user, name);
  const std::string key = absl::StrCat(is_user ? "uid:" : "gid:", name);
  const auto known = ids->find(key);
  if (known != ids->end()) return known->second;
  return ids->emplace(key, LookUpId(is_user, name)).first->second;
}

absl::Status Wrong(absl::string_view reason) {
  return absl::InvalidArgumentError(reason);
}

// Specificities: the class, what tells members of a class apart, and the weight
// of a pattern.
uint32_t Specificity(Kind kind, uint32_t within) {
  switch (kind) {
    case Kind::kEverybody:
      return 0;
    case Kind::kFamily:
      return 1u << 24;
    case Kind::kNetwork:
      // A network of all addresses is the family.
      return (1u << 24) + within;
    case Kind::kCid:
      return (1u << 24) + 1;
    default:
      return (static_cast<uint32_t>(kind) << 24) + within;
  }
}

// Of a pattern without wildcards. All of them that match a client are equal to
// it.
constexpr uint32_t kExact = 0x10000;
// Of a pattern with wildcards that refuses. The weights of others are below.
constexpr uint32_t kRefusing = 0xffff;

uint32_t WithinPatterns(const GlobWeight& weight) {
  if (!weight.has_wildcards) return kExact;
  return static_cast<uint32_t>(
      std::min<size_t>(weight.literal_bytes, kRefusing - 1));
}

absl::StatusOr<Who> ParseNumbered(Kind kind, absl::string_view value,
                                  WhoNames names, KnownIds* ids) {
  Who who;
  who.kind = kind;
  who.family = kind == Kind::kCid ? Family::kVsock : Family::kUnix;
  who.specificity = Specificity(kind, 0);
  const bool is_number = ParseNumber(value, &who.number);
  if (kind == Kind::kCid) {
    if (is_number) return who;
    return Wrong("a CID is a number; use vsock: for all of them");
  }
  const bool is_user = kind == Kind::kUser;
  bool found = is_number || (names == WhoNames::kTrust && !value.empty());
  if (!found && !value.empty()) {
    const auto id = FindId(is_user, std::string(value), ids);
    found = id.has_value();
    who.number = id.value_or(0);
  }
  if (found && who.number != kNobodysId) return who;
  return Wrong(is_user ? "there is no such user" : "there is no such group");
}

absl::StatusOr<Who> ParsePattern(Kind kind, absl::string_view pattern) {
  Who who;
  who.kind = kind;
  who.family = kind == Kind::kUnit ? Family::kUnix : Family::kUnknown;
  who.pattern = pattern;
  if (pattern.empty()) {
    return Wrong("there is nothing behind the colon; * stands for all of them");
  }
  const bool is_glob = kind == Kind::kUnit || kind == Kind::kPsk;
  who.specificity = Specificity(
      kind,
      WithinPatterns(is_glob ? WeightOf(pattern) : WeightOfSubject(pattern)));
  const absl::Status status =
      is_glob ? CheckGlob(pattern) : CheckSubjectPattern(pattern);
  if (!status.ok()) return status;
  return who;
}

// An address is copied, since inet_pton() needs its end marked.
bool ParseAddress(absl::string_view text, Who* who) {
  char address[INET6_ADDRSTRLEN + 1];
  if (text.empty() || text.size() >= sizeof(address)) return false;
  std::memcpy(address, text.data(), text.size());
  address[text.size()] = '\0';
  // inet_pton() accepts neither host names nor zones, so that no resolver is
  // queried.
  if (std::memchr(address, ':', text.size()) == nullptr) {
    who->family = Family::kIpv4;
    return inet_pton(AF_INET, address, who->address.data()) == 1;
  }
  who->family = Family::kIpv6;
  return inet_pton(AF_INET6, address, who->address.data()) == 1;
}

absl::StatusOr<Who> ParseNetwork(absl::string_view text) {
  const size_t slash = text.find('/');
  const absl::string_view address = text.substr(0, slash);
  Who who;
  who.kind = Kind::kNetwork;
  if (!ParseAddress(address, &who)) {
    return Wrong(absl::StrContains(address, '%')
                     ? "an address has no interface here; leave out what "
                       "follows the %, and it is that address on any link"
                     : "this is no address, network, uid:USER, gid:GROUP, "
                       "unit:UNIT, unix:, vsock: or vsock:CID");
  }
  const uint32_t longest = who.family == Family::kIpv4 ? 32 : 128;
  uint32_t bits = longest;
  if (slash != absl::string_view::npos &&
      (!ParseNumber(text.substr(slash + 1), &bits) || bits > longest)) {
    return Wrong(absl::StrCat("the length of an ", NameOf(who.family),
                              " network's prefix is a number from 0 to ",
                              longest));
  }
  in6_addr in6;
  std::memcpy(&in6, who.address.data(), sizeof(in6));
  if (who.family == Family::kIpv6 && IN6_IS_ADDR_V4MAPPED(&in6)) {
    // A shorter prefix would cover IPv6 clients in ::/80, for example, and
    // match no IPv4 client.
    if (bits < 96) {
      return Wrong(
          "an IPv4 network that is written as an IPv6 one has a prefix of 96 "
          "or more");
    }
    who.family = Family::kIpv4;
    bits -= 96;
    std::memmove(who.address.data(), who.address.data() + 12, 4);
  }
  who.prefix_bits = static_cast<int>(bits);
  ClearHostBits(&who.address, who.prefix_bits);
  who.specificity = Specificity(Kind::kNetwork, bits);
  return who;
}

Who WhoOfFamily(Family family) {
  Who who;
  who.kind = Kind::kFamily;
  who.family = family;
  who.specificity = Specificity(Kind::kFamily, 0);
  return who;
}

// Everybody, or nbdkit's words for a family, in both of its spellings.
std::optional<Who> ParseAny(absl::string_view text) {
  if (text == "*") return Who();
  if (!absl::ConsumePrefix(&text, "any") &&
      !absl::ConsumePrefix(&text, "all")) {
    return std::nullopt;
  }
  if (text.empty()) return Who();
  for (const Family family : kFamilies) {
    if (absl::EqualsIgnoreCase(text, NameOf(family))) {
      return WhoOfFamily(family);
    }
  }
  return std::nullopt;
}

}  // namespace

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
    case Family::kUnnamed:
      break;
  }
  return "unknown";
}

absl::StatusOr<Who> Who::Parse(absl::string_view text, WhoNames names,
                               KnownIds* ids) {
  if (std::optional<Who> any = ParseAny(text)) return *any;
  const size_t colon = text.find(':');
  if (colon == absl::string_view::npos) return ParseNetwork(text);
  const absl::string_view kind = text.substr(0, colon);
  const absl::string_view value = text.substr(colon + 1);
  if (kind == "tls") return ParsePattern(Kind::kSubject, value);
  if (kind == "issuer") return ParsePattern(Kind::kIssuer, value);
  if (kind == "psk") return ParsePattern(Kind::kPsk, value);
  if (kind == "unit") return ParsePattern(Kind::kUnit, value);
  if (kind == "uid") return ParseNumbered(Kind::kUser, value, names, ids);
  if (kind == "gid") return ParseNumbered(Kind::kGroup, value, names, ids);
  if (kind == "vsock") {
    if (value.empty()) return WhoOfFamily(Family::kVsock);
    return ParseNumbered(Kind::kCid, value, names, ids);
  }
  if (kind == "unix") {
    if (value.empty()) return WhoOfFamily(Family::kUnix);
    return Wrong(
        "a Unix client has no path of its own; use unix: for all of them, or "
        "uid: or gid:");
  }
  if (kind == "pid") {
    return Wrong(
        "process ids are used again, and prove nothing; use uid:, gid: or "
        "unit:");
  }
  return ParseNetwork(text);
}

uint32_t Who::Rank(bool refuses) const {
  const bool has_wildcards =
      (is_of_tls() || kind == Kind::kUnit) && (specificity & kExact) == 0;
  return refuses && has_wildcards ? specificity | kRefusing : specificity;
}

bool Who::Matches(const PeerIdentity& peer) const {
  if (peer.family == Family::kUnknown) return false;
  if (kind == Kind::kEverybody) return true;
  if (family != peer.family) return false;
  switch (kind) {
    case Kind::kFamily:
      return true;
    case Kind::kNetwork:
      return InNetwork(peer.address, address, prefix_bits);
    case Kind::kCid:
      return peer.cid == number;
    case Kind::kUser:
      return peer.uid == number;
    case Kind::kGroup:
      return std::find(peer.gids.begin(), peer.gids.end(), number) !=
             peer.gids.end();
    case Kind::kUnit:
      // A process in no unit isn't in "*" either.
      return peer.unit.has_value() && !peer.unit->empty() &&
             Glob(pattern).Matches(*peer.unit);
    default:
      return false;
  }
}

bool Who::Matches(const TlsIdentity& tls) const {
  switch (kind) {
    case Kind::kSubject:
      return SubjectMatches(pattern, tls.subject);
    case Kind::kIssuer:
      return SubjectMatches(pattern, tls.issuer);
    case Kind::kPsk:
      return !tls.psk.empty() && Glob(pattern).Matches(tls.psk);
    default:
      return false;
  }
}

}  // namespace nbdinetd
