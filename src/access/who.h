// WHO: the clients that a rule is about. --allow and --deny, and each line of
// --rules, have one.
//
// Of several WHOs that match a client, the most specific one decides. The
// order, the most specific first; within one kind, what is equal to the client
// comes before patterns. Of patterns, a rule that refuses comes first, since
// neither of libvirt-* and *-qemu says more than the other one; and of those
// that don't, the one with more literal bytes:
//   psk:USER          the PSK identity
//   tls:SUBJECT       the subject of the certificate
//   issuer:ISSUER     the issuer of the certificate
//   unit:UNIT         the systemd unit of a Unix client
//   uid:, gid:        the user of a Unix client, then one of its groups
//   ADDRESS/PREFIX    the longer prefix; an address has the longest
//   vsock:CID
//   anyipv4, unix:... all clients of a family
//   *, any            all clients
// A client that can't be identified (a pipe, for example) matches none but
// those of TLS: * and any are for clients of whom the kernel tells.
//
// Threads: any.
#ifndef NBDINETD_ACCESS_WHO_H_
#define NBDINETD_ACCESS_WHO_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "access/peer_identity.h"

namespace nbdinetd {

// Whether a user or group is looked up by name, which may ask another process,
// or taken as known, for a process that only checks the form.
enum class WhoNames { kLookUp, kTrust };

// The numbers of users and groups that have been looked up, by "uid:NAME".
using KnownIds = std::map<std::string, std::optional<uint32_t>>;

struct Who {
  using Family = PeerIdentity::Family;
  enum class Kind {
    kEverybody,
    kFamily,
    kNetwork,  // IPv4 and IPv6
    kCid,
    kGroup,
    kUser,
    kUnit,
    kIssuer,
    kSubject,
    kPsk,
  };

  Kind kind = Kind::kEverybody;
  Family family = Family::kUnknown;  // kUnknown for all, and for TLS
  std::array<uint8_t, 16> address = {};
  int prefix_bits = 0;
  uint32_t number = 0;
  absl::string_view pattern = {};  // borrowed: the end of the parsed text
  // A greater value is more specific. Rank() is what decides.
  uint32_t specificity = 0;

  // Parses one WHO, to which the result refers. `ids` may be nullptr.
  // InvalidArgument: a reason without the WHO.
  static absl::StatusOr<Who> Parse(absl::string_view text, WhoNames names,
                                   KnownIds* ids);

  // The place of a rule of this WHO among those that match a client, of which
  // the greatest decides. A rule `refuses` if it lets a client do nothing.
  uint32_t Rank(bool refuses) const;

  // Whether the identity is known only after the TLS handshake.
  bool is_of_tls() const {
    return kind == Kind::kIssuer || kind == Kind::kSubject ||
           kind == Kind::kPsk;
  }
  // Whether it is about clients of this family.
  bool Covers(Family of) const {
    return !is_of_tls() && (kind == Kind::kEverybody || family == of);
  }
  // False if is_of_tls().
  bool Matches(const PeerIdentity& peer) const;
  // False unless is_of_tls().
  bool Matches(const TlsIdentity& tls) const;
};

// The family's name in messages: "IPv4".
const char* NameOf(PeerIdentity::Family family);

// The families of peers that can be identified.
inline constexpr PeerIdentity::Family kFamilies[] = {
    PeerIdentity::Family::kIpv4, PeerIdentity::Family::kIpv6,
    PeerIdentity::Family::kUnix, PeerIdentity::Family::kVsock};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_WHO_H_
