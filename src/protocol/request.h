// A request of the transmission phase, and whether it may be carried out.
//
// A Request that ValidateRequest() let pass is trusted from there on: its
// offset and length lie inside the export, its flags suit its command, and its
// command suits what was advertised.
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
  uint64_t cookie = 0;  // opaque, returned as it came
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes

  bool has(uint16_t flag) const { return (flags & flag) != 0; }
};

// nullopt when the magic is wrong. `bytes` holds kRequestHeaderBytes.
std::optional<Request> DecodeRequest(absl::string_view bytes);

// How many bytes of payload follow the header. They must be consumed even
// when the request is refused, or the next header would not be found.
inline uint64_t PayloadBytes(const Request& request) {
  return request.type == NBD_CMD_WRITE ? request.length : 0;
}

// "read", "write", ...; "unknown command".
absl::string_view CommandName(uint16_t type);

// What the client was told of the export: the same values that were sent to
// it decide what is accepted.
struct Promises {
  uint64_t size_bytes = 0;
  uint16_t transmission_flags = 0;
  bool block_status = false;  // a metadata context was selected
};

// NBD_SUCCESS, or the error that the specification wants for this request and
// a sentence for a person.
struct Verdict {
  NbdError error = NBD_SUCCESS;
  const char* sentence = "";
};
Verdict ValidateRequest(const Request& request, const Promises& promises);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_REQUEST_H_
