// A request of the transmission phase, its decoding and its validation.
//
// Only RequestDecoder depends on the kind of headers that was negotiated, and
// ValidateRequest() for one flag of a write. After ValidateRequest() has
// returned NBD_SUCCESS, a Request is trusted: its offset and length lie inside
// the export, its flags are valid for its command, and the command was
// advertised.
#ifndef NBDINETD_PROTOCOL_REQUEST_H_
#define NBDINETD_PROTOCOL_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/block_sizes.h"
#include "protocol/nbd.h"

namespace nbdinetd {

struct Request {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;  // opaque, returned unchanged
  // The offset that the client sent, which an extended reply returns.
  uint64_t sent_offset = 0;
  // The range in bytes. The rest of a read that was begun has a later offset
  // than the client sent.
  uint64_t offset = 0;
  uint64_t length = 0;
  // `length` bytes of payload follow the header.
  bool has_payload = false;
  // The payload of a block status has named no context that was selected.
  bool unknown_context = false;
  // The time of the receive that completed its header. The decoder doesn't know
  // it.
  absl::Time received = {};

  bool has(uint16_t flag) const { return (flags & flag) != 0; }
  // The length of the request that the client sent, also for the rest of a
  // read.
  uint64_t whole_length() const { return length + (offset - sent_offset); }
};

// The length in bytes of the payload after the header. A refused request's
// payload must be consumed, too, since the next header follows it.
inline uint64_t PayloadBytes(const Request& request) {
  return request.has_payload ? request.length : 0;
}

// The kind of request headers: NBD_OPT_EXTENDED_HEADERS was negotiated or not.
enum class Headers { kCompact, kExtended };

class RequestDecoder {
 public:
  // `max_payload`: the maximum payload that was advertised.
  RequestDecoder(Headers headers, uint32_t max_payload)
      : extended_(headers == Headers::kExtended), max_payload_(max_payload) {}

  // The length of each header in bytes.
  size_t header_bytes() const {
    return extended_ ? kExtendedHeaderBytes : kCompactHeaderBytes;
  }
  // Returns nullopt when the magic is wrong. `bytes` holds header_bytes().
  std::optional<Request> Decode(absl::string_view bytes) const;

  // "A server SHOULD initiate hard disconnect if a client sets the
  // NBD_CMD_FLAG_PAYLOAD_LEN flag and uses a length larger than a server's
  // advertised or default maximum payload length" ("Request message").
  bool ExceedsPayloadLimit(const Request& request) const {
    return extended_ && request.has_payload && request.length > max_payload_;
  }

 private:
  static constexpr size_t kCompactHeaderBytes = 28;
  static constexpr size_t kExtendedHeaderBytes = 32;

  const bool extended_;
  const uint32_t max_payload_;
};

// "read", "write", ..., or "unknown command".
absl::string_view CommandName(uint16_t type);

// The properties of the export that the client received. Validation uses the
// same values.
struct Promises {
  uint64_t size_bytes = 0;
  uint16_t transmission_flags = 0;
  bool block_status = false;  // a metadata context was selected
  Headers headers = Headers::kCompact;
  BlockSizes block_sizes = {};
};

// NBD_SUCCESS, or the error that the specification requires for this request,
// with a sentence for a person.
struct Verdict {
  NbdError error = NBD_SUCCESS;
  const char* sentence = "";
};
Verdict ValidateRequest(const Request& request, const Promises& promises);

// The id of base:allocation, the only metadata context.
inline constexpr uint32_t kBaseAllocationId = 1;

// The length in bytes of the payload of a block status: the effect length, and
// the ids of the contexts to report, each once. There is only one context.
inline constexpr size_t kStatusPayloadBytes = 12;

// Whether the payload of the request is one that TakeStatusPayload() takes.
inline bool HasStatusPayload(const Request& request, const Promises& promises) {
  return request.has_payload && request.type == NBD_CMD_BLOCK_STATUS &&
         request.length == kStatusPayloadBytes &&
         (promises.transmission_flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD) != 0;
}
// Returns the request that the client could have sent without a payload, not
// validated. `payload` holds kStatusPayloadBytes.
Request TakeStatusPayload(const Request& request, absl::string_view payload);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_REQUEST_H_
