#include "messages.h"

#include <algorithm>

#include "fuzz/input.h"
#include "support/wire.h"

namespace nbdfuzz {
namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

constexpr size_t kOptionHeader = 16;
constexpr size_t kCompactHeader = 28;
constexpr size_t kExtendedHeader = 32;

bool IsGood(const Message& message) {
  switch (message.kind) {
    case Message::kOption:
      return message.magic == kIHaveOpt;
    case Message::kRequest:
      return message.magic == kRequestMagic || message.extended();
    default:
      return true;
  }
}

std::string Header(const Message& message) {
  switch (message.kind) {
    case Message::kOption:
      return Writer()
          .U64(message.magic)
          .U32(message.type)
          .U32(static_cast<uint32_t>(message.length))
          .bytes();
    case Message::kRequest: {
      Writer header;
      header.U32(static_cast<uint32_t>(message.magic))
          .U16(message.flags)
          .U16(static_cast<uint16_t>(message.type))
          .U64(message.cookie)
          .U64(message.offset);
      return message.extended()
                 ? header.U64(message.length).bytes()
                 : header.U32(static_cast<uint32_t>(message.length)).bytes();
    }
    default:
      return "";
  }
}

Message Take(Phase phase, std::string_view* rest) {
  Message message;
  const bool extended = phase == Phase::kTransmission && rest->size() >= 4 &&
                        Reader(*rest).U32() == kExtendedRequestMagic;
  const size_t header = phase == Phase::kNegotiation
                            ? kOptionHeader
                            : (extended ? kExtendedHeader : kCompactHeader);
  if (rest->size() < header) {
    message.stored = *rest;
    *rest = {};
    return message;
  }
  Reader reader(rest->substr(0, header));
  if (phase == Phase::kNegotiation) {
    message.kind = Message::kOption;
    message.magic = reader.U64();
    message.type = reader.U32();
  } else {
    message.kind = Message::kRequest;
    message.magic = reader.U32();
    message.flags = reader.U16();
    message.type = reader.U16();
    message.cookie = reader.U64();
    message.offset = reader.U64();
  }
  message.length = extended ? reader.U64() : reader.U32();
  rest->remove_prefix(header);
  if (message.has_payload()) {
    message.stored = rest->substr(0, message.stored_bytes());
    rest->remove_prefix(message.stored.size());
  }
  return message;
}

}  // namespace

bool Message::extended() const {
  return kind == kRequest && magic == kExtendedRequestMagic;
}

bool Message::has_payload() const {
  if (extended() && (flags & kCmdFlagPayloadLen) != 0) return true;
  return kind == kOption || (kind == kRequest && type == kCmdWrite);
}

uint64_t Message::stored_bytes() const {
  return StoredBytes(
      kind == kOption ? kVerbatimOptionBytes : kVerbatimWriteBytes, length);
}

std::string Message::Payload() const {
  if (!has_payload()) return stored;
  return Expand(kind == kOption ? kVerbatimOptionBytes : kVerbatimWriteBytes,
                stored, length);
}

std::vector<Message> TakeApart(Phase phase, std::string_view stored) {
  std::vector<Message> messages;
  if (phase == Phase::kNegotiation) {
    Message flags;
    flags.kind = Message::kClientFlags;
    flags.stored = stored.substr(0, 4);
    stored.remove_prefix(flags.stored.size());
    messages.push_back(std::move(flags));
  }
  while (!stored.empty()) messages.push_back(Take(phase, &stored));
  return messages;
}

std::string PutTogether(const std::vector<Message>& messages) {
  std::string stored;
  for (const Message& message : messages) {
    stored += Header(message) + message.stored;
  }
  return stored;
}

std::string ExpandOptions(std::string_view stored) {
  std::string wire;
  for (const Message& message : TakeApart(Phase::kNegotiation, stored)) {
    wire += Header(message);
    wire += message.Payload();
    // What comes after is no message.
    if (!IsGood(message)) break;
  }
  return wire;
}

std::string ExpandRequests(std::string_view stored) {
  std::string wire;
  uint64_t number = 0;
  for (Message& message : TakeApart(Phase::kTransmission, stored)) {
    message.cookie = message.cookie << 16 | (++number & 0xffff);
    wire += Header(message);
    wire += message.Payload();
    if (!IsGood(message)) break;
  }
  return wire;
}

}  // namespace nbdfuzz
