// A request of the transmission phase, and its validation.
//
// After ValidateRequest() has returned NBD_SUCCESS, a Request is trusted: its
// offset and length lie inside the export, its flags are valid for its command,
// and the command was advertised.
#ifndef NBDINETD_PROTOCOL_REQUEST_H_
#define NBDINETD_PROTOCOL_REQUEST_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "protocol/nbd.h"

namespace nbdinetd {

inline constexpr size_t kRequestHeaderBytes = 28;

struct Request {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;  // opaque, returned unchanged
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes

  bool has(uint16_t flag) const { return (flags & flag) != 0; }
};

// Returns nullopt when the magic is wrong. `bytes` holds kRequestHeaderBytes.
std::optional<Request> DecodeRequest(absl::string_view bytes);

// The length in bytes of the payload after the header. A refused request's
// payload must be consumed, too, since the next header follows it.
inline uint64_t PayloadBytes(const Request& request) {
  return request.type == NBD_CMD_WRITE ? request.length : 0;
}

// "read", "write", ..., or "unknown command".
absl::string_view CommandName(uint16_t type);

// The properties of the export that the client received. Validation uses the
// same values.
struct Promises {
  uint64_t size_bytes = 0;
  uint16_t transmission_flags = 0;
  bool block_status = false;  // a metadata context was selected
};

// NBD_SUCCESS, or the error that the specification requires for this request,
// with a sentence for a person.
struct Verdict {
  NbdError error = NBD_SUCCESS;
  const char* sentence = "";
};
Verdict ValidateRequest(const Request& request, const Promises& promises);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_REQUEST_H_
