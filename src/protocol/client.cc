#include "protocol/client.h"

#include "absl/strings/str_format.h"
#include "protocol/wire.h"

namespace nbdinetd {

std::optional<Greeting> DecodeGreeting(absl::string_view bytes) {
  WireReader reader(bytes);
  if (reader.Read<uint64_t>() != NBD_MAGIC) return std::nullopt;
  Greeting greeting;
  greeting.newstyle = reader.Read<uint64_t>() == NBD_IHAVEOPT;
  const auto flags = reader.Read<uint16_t>();
  // Oldstyle negotiation has the size there.
  if (greeting.newstyle) greeting.handshake_flags = flags;
  return greeting;
}

std::string EncodeClientFlags(uint32_t flags) {
  return WireWriter().Write(flags).bytes();
}

std::string EncodeOption(NbdOption option, absl::string_view payload) {
  return WireWriter()
      .Write(NBD_IHAVEOPT)
      .Write(static_cast<uint32_t>(option))
      .Write(static_cast<uint32_t>(payload.size()))
      .WriteBytes(payload)
      .bytes();
}

std::string EncodeInfoRequest(absl::string_view name) {
  return WireWriter()
      .Write(static_cast<uint32_t>(name.size()))
      .WriteBytes(name)
      .Write(uint16_t{1})
      .Write(NBD_INFO_BLOCK_SIZE)
      .bytes();
}

std::optional<OptionReplyHeader> DecodeOptionReplyHeader(
    absl::string_view bytes) {
  WireReader reader(bytes);
  if (reader.Read<uint64_t>() != NBD_OPT_REPLY_MAGIC) return std::nullopt;
  OptionReplyHeader header;
  header.option = reader.Read<uint32_t>();
  header.type = reader.Read<uint32_t>();
  header.length = reader.Read<uint32_t>();
  return header;
}

std::string OptionErrorName(uint32_t type) {
  switch (type) {
    case NBD_REP_ERR_UNSUP:
      return "NBD_REP_ERR_UNSUP";
    case NBD_REP_ERR_POLICY:
      return "NBD_REP_ERR_POLICY";
    case NBD_REP_ERR_INVALID:
      return "NBD_REP_ERR_INVALID";
    case NBD_REP_ERR_PLATFORM:
      return "NBD_REP_ERR_PLATFORM";
    case NBD_REP_ERR_TLS_REQD:
      return "NBD_REP_ERR_TLS_REQD";
    case NBD_REP_ERR_UNKNOWN:
      return "NBD_REP_ERR_UNKNOWN";
    case NBD_REP_ERR_SHUTDOWN:
      return "NBD_REP_ERR_SHUTDOWN";
    case NBD_REP_ERR_BLOCK_SIZE_REQD:
      return "NBD_REP_ERR_BLOCK_SIZE_REQD";
    case NBD_REP_ERR_TOO_BIG:
      return "NBD_REP_ERR_TOO_BIG";
    case NBD_REP_ERR_EXT_HEADER_REQD:
      return "NBD_REP_ERR_EXT_HEADER_REQD";
    default:
      return absl::StrFormat("error %#x", type);
  }
}

bool AddInformation(absl::string_view payload, ExportInformation& information) {
  WireReader reader(payload);
  if (reader.remaining() < sizeof(uint16_t)) return false;
  switch (reader.Read<uint16_t>()) {
    case NBD_INFO_EXPORT: {
      const auto size_bytes = reader.Read<uint64_t>();
      information.transmission_flags = reader.Read<uint16_t>();
      if (!reader.ReadExactly()) return false;
      information.size_bytes = size_bytes;
      return true;
    }
    case NBD_INFO_BLOCK_SIZE:
      information.minimum_block_bytes = reader.Read<uint32_t>();
      reader.Read<uint32_t>();  // preferred
      reader.Read<uint32_t>();  // maximum
      return reader.ReadExactly();
    default:
      return true;
  }
}

std::string EncodeRequest(NbdCommand command, uint64_t cookie, uint64_t offset,
                          uint32_t length) {
  return WireWriter()
      .Write(NBD_REQUEST_MAGIC)
      .Write(uint16_t{0})
      .Write(static_cast<uint16_t>(command))
      .Write(cookie)
      .Write(offset)
      .Write(length)
      .bytes();
}

std::optional<SimpleReply> DecodeSimpleReply(absl::string_view bytes) {
  WireReader reader(bytes);
  if (reader.Read<uint32_t>() != NBD_SIMPLE_REPLY_MAGIC) return std::nullopt;
  SimpleReply reply;
  reply.error = reader.Read<uint32_t>();
  reply.cookie = reader.Read<uint64_t>();
  return reply;
}

}  // namespace nbdinetd
