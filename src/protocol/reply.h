// Encodes the replies of the transmission phase.
//
// Only ReplyEncoder depends on the reply style. fragments() tells its callers
// whether a read may be answered in several content chunks, and
// reports_late_errors() whether an error can still be reported after a chunk's
// header was sent.
//
// Each Encode function writes at `out` and returns the address after the last
// written byte: at most kMaxReplyBytes, except for a block status. Nothing is
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

  // The length in bytes of what EncodeDataHeader() writes.
  size_t data_header_bytes() const {
    return style_ == ReplyStyle::kStructured ? 28 : 16;
  }
  // Announces `length` bytes of the export from `offset`, which must follow.
  // `done`: this is the reply's last chunk, and no error can follow. A simple
  // reply has only one such header, and ignores `done`.
  char* EncodeDataHeader(char* out, uint64_t cookie, uint64_t offset,
                         uint32_t length, bool done) const;

  // Announces that `length` bytes from `offset` are zeroes. Only where
  // fragments() returns true.
  char* EncodeHole(char* out, uint64_t cookie, uint64_t offset, uint32_t length,
                   bool done) const;

  // Ends a reply whose chunks were sent without `done`. Simple replies have no
  // such end.
  char* EncodeDone(char* out, uint64_t cookie) const;

  // Success of a request whose reply has no payload.
  char* EncodeSuccess(char* out, uint64_t cookie) const;

  // The request failed. Only structured replies carry the sentence.
  char* EncodeError(char* out, uint64_t cookie, NbdError error,
                    absl::string_view sentence) const;

  // The same for an error at a known `offset`. Where reports_late_errors()
  // returns true, it may also follow data whose header was already sent.
  char* EncodeErrorAt(char* out, uint64_t cookie, NbdError error,
                      absl::string_view sentence, uint64_t offset) const;

  // The length in bytes of what EncodeBlockStatus() writes. Only where
  // structured replies were negotiated.
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
