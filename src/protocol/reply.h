// Replies of the transmission phase: how each is put on the wire.
//
// Only ReplyEncoder knows the reply style. Its callers ask for a reply by what
// it means, and learn from fragments() whether a read may be answered in
// several content chunks, and from reports_late_errors() whether an error can
// still be told once a chunk's header is out.
//
// Each Encode function writes at `out` and returns the place behind what it
// wrote: no more than kMaxReplyBytes, but for a block status. Nothing is
// allocated.
#ifndef NBDINETD_PROTOCOL_REPLY_H_
#define NBDINETD_PROTOCOL_REPLY_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "protocol/nbd.h"
#include "protocol/request.h"

namespace nbdinetd {

enum class ReplyStyle { kSimple, kStructured };

// One block status descriptor ("NBD_REPLY_TYPE_BLOCK_STATUS").
struct StatusDescriptor {
  uint32_t length;  // bytes, not 0
  uint32_t status;  // NBD_STATE_*
};

class ReplyEncoder {
 public:
  explicit ReplyEncoder(ReplyStyle style) : style_(style) {}

  bool fragments(const Request& request) const {
    return style_ == ReplyStyle::kStructured && !request.has(NBD_CMD_FLAG_DF);
  }
  bool reports_late_errors() const { return style_ == ReplyStyle::kStructured; }

  // How long the header is that EncodeDataHeader() writes.
  size_t data_header_bytes() const {
    return style_ == ReplyStyle::kStructured ? 28 : 16;
  }
  // Announces `length` bytes of the export from `offset`, which must follow.
  // `done`: this is the reply's last chunk, and no error can befall it. A
  // simple reply has one such header only, and is done by nature.
  char* EncodeDataHeader(char* out, uint64_t cookie, uint64_t offset,
                         uint32_t length, bool done) const;

  // Announces that `length` bytes from `offset` read as zeroes. Only where
  // fragments() holds.
  char* EncodeHole(char* out, uint64_t cookie, uint64_t offset, uint32_t length,
                   bool done) const;

  // The end of a reply whose data went before without `done`. Simple replies
  // have no such end.
  char* EncodeDone(char* out, uint64_t cookie) const;

  // Success of a request that has no payload in its reply.
  char* EncodeSuccess(char* out, uint64_t cookie) const;

  // The request failed. The sentence reaches the client where the style can
  // carry it.
  char* EncodeError(char* out, uint64_t cookie, NbdError error,
                    absl::string_view sentence) const;

  // The same for an error that is known to have struck at `offset`, also one
  // that is found after the header of its data was sent (only where
  // reports_late_errors() holds).
  char* EncodeErrorAt(char* out, uint64_t cookie, NbdError error,
                      absl::string_view sentence, uint64_t offset) const;

  static size_t BlockStatusBytes(size_t descriptors) {
    return 24 + 8 * descriptors;
  }
  char* EncodeBlockStatus(char* out, uint64_t cookie, uint32_t context_id,
                          absl::Span<const StatusDescriptor> descriptors) const;

 private:
  ReplyStyle style_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_REPLY_H_
