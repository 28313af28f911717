#include "protocol/option.h"

#include <optional>

#include "base/limits.h"
#include "base/utf8.h"
#include "protocol/wire.h"

namespace nbdinetd {
namespace {

constexpr size_t kExportNameReservedBytes = 124;

// Reads a 32-bit length and that many bytes; nullopt if the payload is shorter.
std::optional<absl::string_view> ReadName(WireReader& reader) {
  const auto length = reader.Read<uint32_t>();
  if (length > reader.remaining()) return std::nullopt;
  return reader.ReadBytes(length);
}

// The same; nullopt also if the bytes aren't a valid string.
std::optional<absl::string_view> ReadString(WireReader& reader) {
  const std::optional<absl::string_view> text = ReadName(reader);
  if (text.has_value() && !IsValidString(*text)) return std::nullopt;
  return text;
}

}  // namespace

std::string EncodeGreeting() {
  return WireWriter()
      .Write(NBD_MAGIC)
      .Write(NBD_IHAVEOPT)
      .Write(
          static_cast<uint16_t>(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
      .bytes();
}

std::optional<OptionHeader> DecodeOptionHeader(absl::string_view bytes) {
  WireReader reader(bytes);
  if (reader.Read<uint64_t>() != NBD_IHAVEOPT) return std::nullopt;
  OptionHeader header;
  header.option = reader.Read<uint32_t>();
  header.length = reader.Read<uint32_t>();
  return header;
}

bool IsValidString(absl::string_view name) {
  return name.size() <= kMaxStringBytes &&
         name.find('\0') == absl::string_view::npos && IsValidUtf8(name);
}

std::optional<InfoRequest> DecodeInfoRequest(absl::string_view payload) {
  WireReader reader(payload);
  InfoRequest request;
  const std::optional<absl::string_view> name = ReadName(reader);
  if (!name.has_value()) return std::nullopt;
  request.name = *name;
  const auto count = reader.Read<uint16_t>();
  if (reader.remaining() != size_t{count} * sizeof(uint16_t)) {
    return std::nullopt;
  }
  request.information.reserve(count);
  for (uint16_t i = 0; i < count; ++i) {
    request.information.push_back(reader.Read<uint16_t>());
  }
  if (!reader.ReadExactly()) return std::nullopt;
  return request;
}

std::optional<MetaContextRequest> DecodeMetaContextRequest(
    absl::string_view payload) {
  WireReader reader(payload);
  MetaContextRequest request;
  const std::optional<absl::string_view> name = ReadName(reader);
  if (!name.has_value()) return std::nullopt;
  request.name = *name;
  const auto count = reader.Read<uint32_t>();
  // Each query has a length field, which bounds their number before memory is
  // allocated for them.
  if (count > reader.remaining() / sizeof(uint32_t)) return std::nullopt;
  request.queries.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    const std::optional<absl::string_view> query = ReadString(reader);
    if (!query.has_value()) return std::nullopt;
    request.queries.push_back(*query);
  }
  if (!reader.ReadExactly()) return std::nullopt;
  return request;
}

void OptionReplies::Add(NbdOptionReply type, absl::string_view payload) {
  bytes_ += WireWriter()
                .Write(NBD_OPT_REPLY_MAGIC)
                .Write(option_)
                .Write(static_cast<uint32_t>(type))
                .Write(static_cast<uint32_t>(payload.size()))
                .WriteBytes(payload)
                .bytes();
}

void OptionReplies::Server(absl::string_view name,
                           absl::string_view description) {
  Add(NBD_REP_SERVER, WireWriter()
                          .Write(static_cast<uint32_t>(name.size()))
                          .WriteBytes(name)
                          .WriteBytes(description)
                          .bytes());
}

void OptionReplies::InfoExport(uint64_t size_bytes,
                               uint16_t transmission_flags) {
  Add(NBD_REP_INFO, WireWriter()
                        .Write(NBD_INFO_EXPORT)
                        .Write(size_bytes)
                        .Write(transmission_flags)
                        .bytes());
}

void OptionReplies::InfoString(uint16_t information, absl::string_view text) {
  Add(NBD_REP_INFO, WireWriter().Write(information).WriteBytes(text).bytes());
}

void OptionReplies::InfoBlockSize(uint32_t minimum, uint32_t preferred,
                                  uint32_t maximum) {
  Add(NBD_REP_INFO, WireWriter()
                        .Write(NBD_INFO_BLOCK_SIZE)
                        .Write(minimum)
                        .Write(preferred)
                        .Write(maximum)
                        .bytes());
}

void OptionReplies::MetaContext(uint32_t id, absl::string_view name) {
  Add(NBD_REP_META_CONTEXT, WireWriter().Write(id).WriteBytes(name).bytes());
}

void OptionReplies::ExportName(uint64_t size_bytes, uint16_t transmission_flags,
                               bool no_zeroes) {
  bytes_ += EncodeExportNameReply(size_bytes, transmission_flags, no_zeroes);
}

std::string EncodeExportNameReply(uint64_t size_bytes,
                                  uint16_t transmission_flags, bool no_zeroes) {
  return WireWriter()
      .Write(size_bytes)
      .Write(transmission_flags)
      .WriteBytes(std::string(no_zeroes ? 0 : kExportNameReservedBytes, '\0'))
      .bytes();
}

}  // namespace nbdinetd
