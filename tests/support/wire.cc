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

std::string OptionReplyName(uint32_t type) {
  switch (type) {
    case kRepAck:
      return "NBD_REP_ACK";
    case kRepServer:
      return "NBD_REP_SERVER";
    case kRepInfo:
      return "NBD_REP_INFO";
    case kRepMetaContext:
      return "NBD_REP_META_CONTEXT";
    case kRepErrUnsup:
      return "NBD_REP_ERR_UNSUP";
    case kRepErrPolicy:
      return "NBD_REP_ERR_POLICY";
    case kRepErrInvalid:
      return "NBD_REP_ERR_INVALID";
    case kRepErrPlatform:
      return "NBD_REP_ERR_PLATFORM";
    case kRepErrTlsReqd:
      return "NBD_REP_ERR_TLS_REQD";
    case kRepErrUnknown:
      return "NBD_REP_ERR_UNKNOWN";
    case kRepErrShutdown:
      return "NBD_REP_ERR_SHUTDOWN";
    case kRepErrBlockSizeReqd:
      return "NBD_REP_ERR_BLOCK_SIZE_REQD";
    case kRepErrTooBig:
      return "NBD_REP_ERR_TOO_BIG";
    default:
      return "option reply type " + std::to_string(type);
  }
}

std::string ErrorName(uint32_t error) {
  switch (error) {
    case kNbdOk:
      return "success";
    case kNbdEperm:
      return "NBD_EPERM";
    case kNbdEio:
      return "NBD_EIO";
    case kNbdEnomem:
      return "NBD_ENOMEM";
    case kNbdEinval:
      return "NBD_EINVAL";
    case kNbdEnospc:
      return "NBD_ENOSPC";
    case kNbdEoverflow:
      return "NBD_EOVERFLOW";
    case kNbdEnotsup:
      return "NBD_ENOTSUP";
    case kNbdEshutdown:
      return "NBD_ESHUTDOWN";
    default:
      return "undefined error " + std::to_string(error);
  }
}

Bytes OptionMessage(uint32_t option, std::string_view payload) {
  return Writer().U64(kIHaveOpt).U32(option).String32(payload).bytes();
}

Bytes RequestMessage(const Request& request) {
  return Writer()
      .U32(kRequestMagic)
      .U16(request.flags)
      .U16(request.type)
      .U64(request.cookie.value_or(0))
      .U64(request.offset)
      .U32(request.length)
      .bytes();
}

}  // namespace nbdtest
