#include "protocol/reply.h"

#include <algorithm>

#include "base/limits.h"
#include "protocol/wire.h"

namespace nbdinetd {
namespace {

char* StoreSimpleHeader(char* out, NbdError error, uint64_t cookie) {
  out = Store(out, NBD_SIMPLE_REPLY_MAGIC);
  out = Store(out, static_cast<uint32_t>(error));
  return Store(out, cookie);
}

char* StoreChunkHeader(char* out, uint16_t type, bool done, uint64_t cookie,
                       uint32_t length) {
  out = Store(out, NBD_STRUCTURED_REPLY_MAGIC);
  out = Store(out, done ? NBD_REPLY_FLAG_DONE : uint16_t{0});
  out = Store(out, type);
  out = Store(out, cookie);
  return Store(out, length);
}

char* StoreSentence(char* out, absl::string_view sentence) {
  return std::copy(sentence.begin(), sentence.end(), out);
}

absl::string_view Cut(absl::string_view sentence) {
  return sentence.substr(0, kMaxSentenceBytes);
}

}  // namespace

char* ReplyEncoder::EncodeDataHeader(char* out, uint64_t cookie,
                                     uint64_t offset, uint32_t length,
                                     bool done) const {
  if (style_ == ReplyStyle::kSimple) {
    return StoreSimpleHeader(out, NBD_SUCCESS, cookie);
  }
  out = StoreChunkHeader(out, NBD_REPLY_TYPE_OFFSET_DATA, done, cookie,
                         static_cast<uint32_t>(sizeof(offset)) + length);
  return Store(out, offset);
}

char* ReplyEncoder::EncodeHole(char* out, uint64_t cookie, uint64_t offset,
                               uint32_t length, bool done) const {
  out = StoreChunkHeader(out, NBD_REPLY_TYPE_OFFSET_HOLE, done, cookie,
                         sizeof(offset) + sizeof(length));
  out = Store(out, offset);
  return Store(out, length);
}

char* ReplyEncoder::EncodeDone(char* out, uint64_t cookie) const {
  if (style_ == ReplyStyle::kSimple) return out;
  return StoreChunkHeader(out, NBD_REPLY_TYPE_NONE, true, cookie, 0);
}

char* ReplyEncoder::EncodeSuccess(char* out, uint64_t cookie) const {
  if (style_ == ReplyStyle::kSimple) {
    return StoreSimpleHeader(out, NBD_SUCCESS, cookie);
  }
  return StoreChunkHeader(out, NBD_REPLY_TYPE_NONE, true, cookie, 0);
}

char* ReplyEncoder::EncodeError(char* out, uint64_t cookie, NbdError error,
                                absl::string_view sentence) const {
  if (style_ == ReplyStyle::kSimple) {
    return StoreSimpleHeader(out, error, cookie);
  }
  sentence = Cut(sentence);
  out = StoreChunkHeader(out, NBD_REPLY_TYPE_ERROR, true, cookie,
                         static_cast<uint32_t>(6 + sentence.size()));
  out = Store(out, static_cast<uint32_t>(error));
  out = Store(out, static_cast<uint16_t>(sentence.size()));
  return StoreSentence(out, sentence);
}

char* ReplyEncoder::EncodeErrorAt(char* out, uint64_t cookie, NbdError error,
                                  absl::string_view sentence,
                                  uint64_t offset) const {
  if (style_ == ReplyStyle::kSimple) {
    return StoreSimpleHeader(out, error, cookie);
  }
  sentence = Cut(sentence);
  out = StoreChunkHeader(out, NBD_REPLY_TYPE_ERROR_OFFSET, true, cookie,
                         static_cast<uint32_t>(14 + sentence.size()));
  out = Store(out, static_cast<uint32_t>(error));
  out = Store(out, static_cast<uint16_t>(sentence.size()));
  out = StoreSentence(out, sentence);
  return Store(out, offset);
}

char* ReplyEncoder::EncodeBlockStatus(
    char* out, uint64_t cookie, uint32_t context_id,
    absl::Span<const StatusDescriptor> descriptors) const {
  const auto length = static_cast<uint32_t>(4 + 8 * descriptors.size());
  out =
      StoreChunkHeader(out, NBD_REPLY_TYPE_BLOCK_STATUS, true, cookie, length);
  out = Store(out, context_id);
  for (const StatusDescriptor& descriptor : descriptors) {
    out = Store(out, descriptor.length);
    out = Store(out, descriptor.status);
  }
  return out;
}

}  // namespace nbdinetd
