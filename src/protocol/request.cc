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

// The valid flags of the request, with these promises.
uint16_t AcceptedFlags(const Request& request, const Rule& rule,
                       const Promises& promises) {
  const uint16_t transmission_flags = promises.transmission_flags;
  uint16_t flags = rule.valid_flags;
  const auto drop_unless = [&](uint16_t advertised, uint16_t flag) {
    if ((transmission_flags & advertised) == 0) {
      flags = static_cast<uint16_t>(flags & ~flag);
    }
  };
  drop_unless(NBD_FLAG_SEND_DF, NBD_CMD_FLAG_DF);
  drop_unless(NBD_FLAG_SEND_FAST_ZERO, NBD_CMD_FLAG_FAST_ZERO);
  if ((transmission_flags & NBD_FLAG_SEND_FUA) != 0) flags |= NBD_CMD_FLAG_FUA;
  if (request.type == NBD_CMD_WRITE && promises.headers == Headers::kExtended) {
    flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
  }
  return flags;
}

Verdict ValidateRead(const Request& request, const Promises& promises) {
  // With the flag, the reply is one chunk, which is never longer than
  // advertised.
  const BlockSizes& sizes = promises.block_sizes;
  const uint32_t most = request.has(NBD_CMD_FLAG_DF) ? sizes.advertised_payload
                                                     : sizes.accepted_payload;
  if (request.length <= most) return {};
  // NBD_EOVERFLOW is only for clients that know it: those to which
  // NBD_FLAG_SEND_DF was advertised ("Error values").
  if ((promises.transmission_flags & NBD_FLAG_SEND_DF) != 0) {
    return {NBD_EOVERFLOW, "the read is longer than the maximum payload size"};
  }
  return {NBD_EINVAL, "the read is longer than the maximum payload size"};
}

}  // namespace

std::optional<Request> RequestDecoder::Decode(absl::string_view bytes) const {
  const char* in = bytes.data();
  const uint32_t magic =
      extended_ ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
  if (Load<uint32_t>(in) != magic) return std::nullopt;
  Request request;
  request.flags = Load<uint16_t>(in + 4);
  request.type = Load<uint16_t>(in + 6);
  request.cookie = Load<uint64_t>(in + 8);
  request.offset = Load<uint64_t>(in + 16);
  request.sent_offset = request.offset;
  request.length =
      extended_ ? Load<uint64_t>(in + 24) : Load<uint32_t>(in + 24);
  // "With extended headers, the flag MUST be set for NBD_CMD_WRITE" ("Command
  // flags"), but QEMU's client doesn't set it (10.0), nor does libnbd without
  // LIBNBD_STRICT_AUTO_FLAG. Both send the payload.
  request.has_payload = request.type == NBD_CMD_WRITE ||
                        (extended_ && request.has(NBD_CMD_FLAG_PAYLOAD_LEN));
  return request;
}

Request TakeStatusPayload(const Request& request, absl::string_view payload) {
  WireReader reader(payload);
  Request plain = request;
  plain.length = reader.Read<uint64_t>();
  plain.unknown_context = reader.Read<uint32_t>() != kBaseAllocationId;
  plain.flags = static_cast<uint16_t>(plain.flags & ~NBD_CMD_FLAG_PAYLOAD_LEN);
  plain.has_payload = false;
  return plain;
}

absl::string_view CommandName(uint16_t type) {
  const Rule* rule = RuleOf(type);
  return rule == nullptr ? "unknown command" : rule->name;
}

Verdict ValidateRequest(const Request& request, const Promises& promises) {
  const Rule* rule = RuleOf(request.type);
  if (rule == nullptr) return {NBD_EINVAL, "the command is unknown"};
  const uint16_t advertised = promises.transmission_flags;
  if (request.type == NBD_CMD_BLOCK_STATUS && request.has_payload &&
      (advertised & NBD_FLAG_BLOCK_STATUS_PAYLOAD) != 0) {
    // TakeStatusPayload() has taken every other one.
    return {NBD_EINVAL,
            "the payload of a block status must be a length and the id of the "
            "metadata context"};
  }
  if ((request.flags & ~AcceptedFlags(request, *rule, promises)) != 0) {
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
  if (request.type == NBD_CMD_WRITE &&
      request.length > promises.block_sizes.accepted_payload) {
    return {NBD_EINVAL, "the write is longer than the maximum payload size"};
  }
  if (((request.offset | request.length) &
       (promises.block_sizes.minimum - 1)) != 0) {
    return {NBD_EINVAL, "the request is not aligned to the minimum block size"};
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
    if (request.unknown_context) {
      return {NBD_EINVAL, "the metadata context is unknown"};
    }
    if (request.length == 0) {
      return {NBD_EINVAL, "a block status request must not be empty"};
    }
  }
  return {};
}

}  // namespace nbdinetd
