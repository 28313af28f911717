#include "access/asked_client.h"

#include "absl/status/statusor.h"
#include "access/who.h"

namespace nbdinetd {
namespace {

using Family = PeerIdentity::Family;

bool IsSingleAddress(const Who& who) {
  return who.prefix_bits == (who.family == Family::kIpv4 ? 32 : 128);
}

}  // namespace

absl::Status AskedClient::Add(absl::string_view text) {
  absl::StatusOr<Who> who = Who::Parse(text, WhoNames::kLookUp, nullptr);
  if (!who.ok()) return who.status();
  const bool is_single = who->kind == Who::Kind::kNetwork
                             ? IsSingleAddress(*who)
                             : who->kind != Who::Kind::kEverybody &&
                                   (who->kind != Who::Kind::kFamily ||
                                    who->family == Family::kUnix);
  if (!is_single) {
    return absl::InvalidArgumentError(
        "these are several clients; name one, such as 192.0.2.7, uid:1000, "
        "psk:USER or tls:SUBJECT");
  }
  if (!who->is_of_tls()) {
    if (peer.family != Family::kUnnamed && peer.family != who->family) {
      return absl::InvalidArgumentError(
          "one client doesn't come from two families of sockets");
    }
    peer.family = who->family;
    if (who->family == Family::kUnix && !peer.unit.has_value()) {
      peer.unit.emplace();
    }
  }
  const std::string value(who->pattern);
  switch (who->kind) {
    case Who::Kind::kNetwork:
      peer.address = who->address;
      break;
    case Who::Kind::kCid:
      peer.cid = who->number;
      break;
    case Who::Kind::kUser:
      peer.uid = who->number;
      break;
    case Who::Kind::kGroup:
      peer.gids.push_back(who->number);
      break;
    case Who::Kind::kUnit:
      peer.unit = value;
      break;
    case Who::Kind::kSubject:
      tls.subject = value;
      break;
    case Who::Kind::kIssuer:
      tls.issuer = value;
      break;
    case Who::Kind::kPsk:
      tls.psk = value;
      break;
    default:
      break;
  }
  words.emplace_back(text);
  return absl::OkStatus();
}

}  // namespace nbdinetd
