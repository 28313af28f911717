#include "protocol/request.h"

#include <optional>

#include "base/limits.h"
#include "protocol/wire.h"

namespace nbdinetd {
namespace {

// The rules for each command ("Request types", "Error values"). Besides
// `valid_flags`, NBD_CMD_FLAG_FUA is valid with every command. AcceptedFlags()
// drops flags whose support wasn't advertised.
struct Rule {
  const char* name;
  uint16_t valid_flags;
  uint16_t needs;     // the transmission flag that advertises the command
  bool writes;        // refused on a read-only export
  NbdError past_end;  // the error for a range past the export's end
};

const Rule* RuleOf(uint16_t type) {
  static constexpr Rule kRules[] = {
      /* NBD_CMD_READ */ {"read", NBD_CMD_FLAG_DF, 0, false, NBD_EINVAL},
      /* NBD_CMD_WRITE */ {"write", 0, 0, true, NBD_ENOSPC},
      /* NBD_CMD_DISC */ {"disconnect", 0, 0, false, NBD_SUCCESS},
      /* NBD_CMD_FLUSH */
      {"flush", 0, NBD_FLAG_SEND_FLUSH, false, NBD_EINVAL},
      /* NBD_CMD_TRIM */ {"trim", 0, NBD_FLAG_SEND_TRIM, true, NBD_EINVAL},
      /* NBD_CMD_CACHE */ {"cache", 0, NBD_FLAG_SEND_CACHE, false, NBD_EINVAL},
      /* NBD_CMD_WRITE_ZEROES */
      {"write zeroes", NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
       NBD_FLAG_SEND_WRITE_ZEROES, true, NBD_ENOSPC},
      /* NBD_CMD_BLOCK_STATUS */
      {"block status", NBD_CMD_FLAG_REQ_ONE, 0, false, NBD_EINVAL},
  };
  constexpr size_t kCount = sizeof(kRules) / sizeof(kRules[0]);
  return type < kCount ? &kRules[type] : nullptr;
}

// The valid flags of the command, with these transmission flags.
uint16_t AcceptedFlags(const Rule& rule, uint16_t transmission_flags) {
  uint16_t flags = rule.valid_flags;
  const auto drop_unless = [&](uint16_t advertised, uint16_t flag) {
    if ((transmission_flags & advertised) == 0) {
      flags = static_cast<uint16_t>(flags & ~flag);
    }
  };
  drop_unless(NBD_FLAG_SEND_DF, NBD_CMD_FLAG_DF);
  drop_unless(NBD_FLAG_SEND_FAST_ZERO, NBD_CMD_FLAG_FAST_ZERO);
  if ((transmission_flags & NBD_FLAG_SEND_FUA) != 0) flags |= NBD_CMD_FLAG_FUA;
  return flags;
}

Verdict ValidateRead(const Request& request, const Promises& promises) {
  if (request.length <= kMaxPayloadBytes) return {};
  // NBD_EOVERFLOW is only for clients that know it: those to which
  // NBD_FLAG_SEND_DF was advertised ("Error values").
  if ((promises.transmission_flags & NBD_FLAG_SEND_DF) != 0) {
    return {NBD_EOVERFLOW, "the read is longer than the maximum payload size"};
  }
  return {NBD_EINVAL, "the read is longer than the maximum payload size"};
}

}  // namespace

std::optional<Request> DecodeRequest(absl::string_view bytes) {
  WireReader reader(bytes);
  if (reader.Read<uint32_t>() != NBD_REQUEST_MAGIC) return std::nullopt;
  Request request;
  request.flags = reader.Read<uint16_t>();
  request.type = reader.Read<uint16_t>();
  request.cookie = reader.Read<uint64_t>();
  request.offset = reader.Read<uint64_t>();
  request.length = reader.Read<uint32_t>();
  return request;
}

absl::string_view CommandName(uint16_t type) {
  const Rule* rule = RuleOf(type);
  return rule == nullptr ? "unknown command" : rule->name;
}

Verdict ValidateRequest(const Request& request, const Promises& promises) {
  const Rule* rule = RuleOf(request.type);
  if (rule == nullptr) return {NBD_EINVAL, "the command is unknown"};
  const uint16_t advertised = promises.transmission_flags;
  if ((request.flags & ~AcceptedFlags(*rule, advertised)) != 0) {
    return {NBD_EINVAL, "a command flag is unknown or not valid here"};
  }
  if (rule->writes && (advertised & NBD_FLAG_READ_ONLY) != 0) {
    return {NBD_EPERM, "the export is read-only"};
  }
  if ((advertised & rule->needs) != rule->needs) {
    return {NBD_EINVAL, "the command was not advertised"};
  }
  if (request.type == NBD_CMD_FLUSH &&
      (request.offset != 0 || request.length != 0)) {
    return {NBD_EINVAL, "a flush must have offset 0 and length 0"};
  }
  if (request.type == NBD_CMD_WRITE && request.length > kMaxPayloadBytes) {
    return {NBD_EINVAL, "the write is longer than the maximum payload size"};
  }
  if (request.offset > promises.size_bytes ||
      request.length > promises.size_bytes - request.offset) {
    return {rule->past_end, "the request goes past the end of the export"};
  }
  if (request.type == NBD_CMD_READ) return ValidateRead(request, promises);
  if (request.type == NBD_CMD_BLOCK_STATUS) {
    if (!promises.block_status) {
      return {NBD_EINVAL, "no metadata context was selected for this export"};
    }
    if (request.length == 0) {
      return {NBD_EINVAL, "a block status request must not be empty"};
    }
  }
  return {};
}

}  // namespace nbdinetd
