#include "wire.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace nbdtest {

Writer& Writer::Number(uint64_t value, int size) {
  for (int shift = (size - 1) * 8; shift >= 0; shift -= 8) {
    bytes_.push_back(static_cast<char>((value >> shift) & 0xff));
  }
  return *this;
}

Bytes Reader::Raw(size_t size) {
  if (size > rest_.size()) {
    throw BrokenConversation(
        "a message is shorter than its own fields say: wanted " +
        std::to_string(size) + " bytes, " + std::to_string(rest_.size()) +
        " left");
  }
  Bytes bytes(rest_.substr(0, size));
  rest_.remove_prefix(size);
  return bytes;
}

uint64_t Reader::Number(size_t size) {
  uint64_t value = 0;
  for (char byte : Raw(size))
    value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

namespace {

// The length of the sequence that this byte opens, 0 when none can begin with
// it.
size_t SequenceLength(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return 2;
  if (first >= 0xe0 && first < 0xf0) return 3;
  if (first >= 0xf0 && first < 0xf5) return 4;
  return 0;
}

}  // namespace

bool IsProtocolString(std::string_view text) {
  if (text.size() > kMaxString) return false;
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const size_t length = SequenceLength(first);
    if (first == 0 || length == 0 || at + length > text.size()) return false;
    uint32_t point = length == 1 ? first : first & (0x7fu >> length);
    for (size_t i = 1; i < length; ++i) {
      const auto next = static_cast<unsigned char>(text[at + i]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3fu);
    }
    const bool overlong =
        (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    if (overlong || (point >= 0xd800 && point < 0xe000) || point > 0x10ffff)
      return false;
    at += length;
  }
  return true;
}

namespace {

struct Named {
  uint32_t value;
  std::string_view name;
};

constexpr Named kOptionReplyNames[] = {
    {kRepAck, "NBD_REP_ACK"},
    {kRepServer, "NBD_REP_SERVER"},
    {kRepInfo, "NBD_REP_INFO"},
    {kRepMetaContext, "NBD_REP_META_CONTEXT"},
    {kRepErrUnsup, "NBD_REP_ERR_UNSUP"},
    {kRepErrPolicy, "NBD_REP_ERR_POLICY"},
    {kRepErrInvalid, "NBD_REP_ERR_INVALID"},
    {kRepErrPlatform, "NBD_REP_ERR_PLATFORM"},
    {kRepErrTlsReqd, "NBD_REP_ERR_TLS_REQD"},
    {kRepErrUnknown, "NBD_REP_ERR_UNKNOWN"},
    {kRepErrShutdown, "NBD_REP_ERR_SHUTDOWN"},
    {kRepErrBlockSizeReqd, "NBD_REP_ERR_BLOCK_SIZE_REQD"},
    {kRepErrTooBig, "NBD_REP_ERR_TOO_BIG"},
    {kRepErrExtHeaderReqd, "NBD_REP_ERR_EXT_HEADER_REQD"},
};

constexpr Named kErrorNames[] = {
    {kNbdOk, "success"},
    {kNbdEperm, "NBD_EPERM"},
    {kNbdEio, "NBD_EIO"},
    {kNbdEnomem, "NBD_ENOMEM"},
    {kNbdEinval, "NBD_EINVAL"},
    {kNbdEnospc, "NBD_ENOSPC"},
    {kNbdEoverflow, "NBD_EOVERFLOW"},
    {kNbdEnotsup, "NBD_ENOTSUP"},
    {kNbdEshutdown, "NBD_ESHUTDOWN"},
};

template <size_t kCount>
std::string NameOf(const Named (&names)[kCount], uint32_t value,
                   std::string_view kind) {
  for (const Named& named : names) {
    if (named.value == value) return std::string(named.name);
  }
  return std::string(kind) + " " + std::to_string(value);
}

}  // namespace

std::string OptionReplyName(uint32_t type) {
  return NameOf(kOptionReplyNames, type, "option reply type");
}

std::string ErrorName(uint32_t error) {
  return NameOf(kErrorNames, error, "undefined error");
}

Bytes OptionMessage(uint32_t option, std::string_view payload) {
  return Writer().U64(kIHaveOpt).U32(option).String32(payload).bytes();
}

namespace {

// Both kinds of headers up to the length.
Writer RequestStart(uint32_t magic, const Request& request) {
  return Writer()
      .U32(magic)
      .U16(request.flags)
      .U16(request.type)
      .U64(request.cookie.value_or(0))
      .U64(request.offset);
}

}  // namespace

Bytes RequestMessage(const Request& request) {
  return RequestStart(kRequestMagic, request)
      .U32(static_cast<uint32_t>(request.length))
      .bytes();
}

Bytes ExtendedRequestMessage(const Request& request) {
  return RequestStart(kExtendedRequestMagic, request)
      .U64(request.length)
      .bytes();
}

std::string NameOf(Style style) {
  switch (style) {
    case Style::kSimple:
      return "Simple";
    case Style::kStructured:
      return "Structured";
    case Style::kExtended:
      break;
  }
  return "Extended";
}

Bytes RequestMessage(Style style, const Request& request) {
  return style == Style::kExtended ? ExtendedRequestMessage(request)
                                   : RequestMessage(request);
}

}  // namespace nbdtest
