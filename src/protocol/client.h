// Encodes what a client sends, and decodes what a server answers: the other
// direction of option.h, request.h and reply.h, for nbdinetctl's probe.
//
// This file uses no descriptors. Decoded strings borrow from the payload, and
// may be any bytes.
#ifndef NBDINETD_PROTOCOL_CLIENT_H_
#define NBDINETD_PROTOCOL_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "protocol/nbd.h"

namespace nbdinetd {

inline constexpr size_t kOptionReplyHeaderBytes = 20;
inline constexpr size_t kSimpleReplyBytes = 16;

// What follows NBDMAGIC in a server's greeting.
struct Greeting {
  bool newstyle = false;  // IHAVEOPT; otherwise the server negotiates nothing
  uint16_t handshake_flags = 0;
};
// Returns nullopt when the magic is wrong. `bytes` holds kGreetingBytes.
std::optional<Greeting> DecodeGreeting(absl::string_view bytes);

std::string EncodeClientFlags(uint32_t flags);
std::string EncodeOption(NbdOption option, absl::string_view payload);
// The payload of NBD_OPT_INFO and NBD_OPT_GO, which asks for the block sizes.
std::string EncodeInfoRequest(absl::string_view name);

struct OptionReplyHeader {
  uint32_t option;
  uint32_t type;    // NBD_REP_*
  uint32_t length;  // of the payload, in bytes; up to 2^32-1

  bool is_error() const { return (type & 0x80000000) != 0; }
};
// Returns nullopt when the magic is wrong. `bytes` holds
// kOptionReplyHeaderBytes.
std::optional<OptionReplyHeader> DecodeOptionReplyHeader(
    absl::string_view bytes);
// "NBD_REP_ERR_UNKNOWN"; its number for one that the specification doesn't
// have.
std::string OptionErrorName(uint32_t type);

// What NBD_REP_INFO replies have said of an export.
struct ExportInformation {
  std::optional<uint64_t> size_bytes;
  uint16_t transmission_flags = 0;
  uint32_t minimum_block_bytes = 0;  // 0: the server hasn't said
};
// Adds the payload of one reply; false if it is malformed. Other kinds of
// information are ignored.
bool AddInformation(absl::string_view payload, ExportInformation& information);

// The header of a request without flags. NBD_CMD_READ and NBD_CMD_DISC need no
// more.
std::string EncodeRequest(NbdCommand command, uint64_t cookie, uint64_t offset,
                          uint32_t length);

struct SimpleReply {
  uint32_t error;
  uint64_t cookie;
};
// Returns nullopt when the magic is wrong. `bytes` holds kSimpleReplyBytes.
std::optional<SimpleReply> DecodeSimpleReply(absl::string_view bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_CLIENT_H_
