#include "protocol/reply.h"

#include <algorithm>

#include "base/limits.h"
#include "protocol/wire.h"

namespace nbdinetd {
namespace {

constexpr size_t kSimpleHeaderBytes = 16;
constexpr size_t kStructuredHeaderBytes = 20;
constexpr size_t kExtendedHeaderBytes = 32;

char* StoreSimpleHeader(char* out, const Request& request, NbdError error) {
  out = Store(out, NBD_SIMPLE_REPLY_MAGIC);
  out = Store(out, static_cast<uint32_t>(error));
  return Store(out, request.cookie);
}

size_t DataHeaderBytes(ReplyStyle style) {
  switch (style) {
    case ReplyStyle::kSimple:
      return kSimpleHeaderBytes;
    case ReplyStyle::kStructured:
      return kStructuredHeaderBytes + sizeof(uint64_t);
    case ReplyStyle::kExtended:
      break;
  }
  return kExtendedHeaderBytes + sizeof(uint64_t);
}

char* StoreSentence(char* out, absl::string_view sentence) {
  return std::copy(sentence.begin(), sentence.end(), out);
}

absl::string_view Cut(absl::string_view sentence) {
  return sentence.substr(0, kMaxSentenceBytes);
}

}  // namespace

ReplyEncoder::ReplyEncoder(ReplyStyle style)
    : style_(style), data_header_bytes_(DataHeaderBytes(style)) {}

char* ReplyEncoder::StoreChunkHeader(char* out, const Request& request,
                                     uint16_t type, bool done,
                                     uint32_t length) const {
  const bool extended = style_ == ReplyStyle::kExtended;
  out = Store(out,
              extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
  out = Store(out, done ? NBD_REPLY_FLAG_DONE : uint16_t{0});
  out = Store(out, type);
  out = Store(out, request.cookie);
  if (!extended) return Store(out, length);
  out = Store(out, request.sent_offset);
  return Store(out, uint64_t{length});
}

char* ReplyEncoder::EncodeDataHeader(char* out, const Request& request,
                                     uint64_t offset, uint32_t length,
                                     bool done) const {
  if (!has_chunks()) return StoreSimpleHeader(out, request, NBD_SUCCESS);
  out = StoreChunkHeader(out, request, NBD_REPLY_TYPE_OFFSET_DATA, done,
                         static_cast<uint32_t>(sizeof(offset)) + length);
  return Store(out, offset);
}

char* ReplyEncoder::EncodeHole(char* out, const Request& request,
                               uint64_t offset, uint32_t length,
                               bool done) const {
  out = StoreChunkHeader(out, request, NBD_REPLY_TYPE_OFFSET_HOLE, done,
                         sizeof(offset) + sizeof(length));
  out = Store(out, offset);
  return Store(out, length);
}

char* ReplyEncoder::EncodeDone(char* out, const Request& request) const {
  if (!has_chunks()) return out;
  return StoreChunkHeader(out, request, NBD_REPLY_TYPE_NONE, true, 0);
}

char* ReplyEncoder::EncodeSuccess(char* out, const Request& request) const {
  if (!has_chunks()) return StoreSimpleHeader(out, request, NBD_SUCCESS);
  return StoreChunkHeader(out, request, NBD_REPLY_TYPE_NONE, true, 0);
}

char* ReplyEncoder::EncodeError(char* out, const Request& request,
                                NbdError error,
                                absl::string_view sentence) const {
  if (!has_chunks()) return StoreSimpleHeader(out, request, error);
  sentence = Cut(sentence);
  out = StoreChunkHeader(out, request, NBD_REPLY_TYPE_ERROR, true,
                         static_cast<uint32_t>(6 + sentence.size()));
  out = Store(out, static_cast<uint32_t>(error));
  out = Store(out, static_cast<uint16_t>(sentence.size()));
  return StoreSentence(out, sentence);
}

char* ReplyEncoder::EncodeErrorAt(char* out, const Request& request,
                                  NbdError error, absl::string_view sentence,
                                  uint64_t offset) const {
  if (!has_chunks()) return StoreSimpleHeader(out, request, error);
  sentence = Cut(sentence);
  out = StoreChunkHeader(out, request, NBD_REPLY_TYPE_ERROR_OFFSET, true,
                         static_cast<uint32_t>(14 + sentence.size()));
  out = Store(out, static_cast<uint32_t>(error));
  out = Store(out, static_cast<uint16_t>(sentence.size()));
  out = StoreSentence(out, sentence);
  return Store(out, offset);
}

char* ReplyEncoder::EncodeBlockStatus(
    char* out, const Request& request, uint32_t context_id,
    absl::Span<const StatusDescriptor> descriptors) const {
  const auto count = static_cast<uint32_t>(descriptors.size());
  if (style_ == ReplyStyle::kExtended) {
    out = StoreChunkHeader(out, request, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, true,
                           8 + 16 * count);
    out = Store(out, context_id);
    out = Store(out, count);
    for (const StatusDescriptor& descriptor : descriptors) {
      out = Store(out, descriptor.length);
      out = Store(out, uint64_t{descriptor.status});
    }
    return out;
  }
  out = StoreChunkHeader(out, request, NBD_REPLY_TYPE_BLOCK_STATUS, true,
                         4 + 8 * count);
  out = Store(out, context_id);
  for (const StatusDescriptor& descriptor : descriptors) {
    out = Store(out, static_cast<uint32_t>(descriptor.length));
    out = Store(out, descriptor.status);
  }
  return out;
}

}  // namespace nbdinetd
