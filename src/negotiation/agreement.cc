#include "negotiation/agreement.h"

#include <cstdint>
#include <string>

#include "protocol/nbd.h"

namespace nbdinetd {

Promises PromisesFor(const Export& target, const Agreement& agreement,
                     bool multi_conn) {
  const Export::Facts& facts = target.facts();
  unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                   NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
  // Each connection has a private copy of its own.
  if (multi_conn && !facts.private_copy) flags |= NBD_FLAG_CAN_MULTI_CONN;
  if (facts.read_only) {
    flags |= NBD_FLAG_READ_ONLY;
  } else {
    flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
             NBD_FLAG_SEND_FAST_ZERO;
  }
  if (facts.rotational) flags |= NBD_FLAG_ROTATIONAL;
  if (agreement.style != ReplyStyle::kSimple) flags |= NBD_FLAG_SEND_DF;
  Promises promises;
  promises.size_bytes = facts.size_bytes;
  promises.block_sizes = facts.block_sizes;
  promises.block_status = agreement.base_allocation;
  if (agreement.style == ReplyStyle::kExtended) {
    promises.headers = Headers::kExtended;
    // "SHOULD NOT advertise this bit in response to NBD_OPT_GO if the client
    // does not negotiate metacontexts" ("Transmission flags").
    if (promises.block_status) flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
  }
  promises.transmission_flags = static_cast<uint16_t>(flags);
  return promises;
}

Negotiated Agree(const Catalog::Opened& opened, absl::string_view export_name,
                 const Agreement& agreement, bool multi_conn) {
  Negotiated negotiated;
  negotiated.target = opened.target;
  negotiated.export_name = std::string(export_name);
  negotiated.catalog_name = opened.name;
  negotiated.read_only_reason = opened.read_only_reason;
  negotiated.exclusive = opened.exclusive;
  negotiated.limits = opened.limits;
  negotiated.rule = opened.rule;
  negotiated.promises = PromisesFor(*opened.target, agreement, multi_conn);
  negotiated.style = agreement.style;
  return negotiated;
}

}  // namespace nbdinetd
