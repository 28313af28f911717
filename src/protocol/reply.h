// Encodes the replies of the transmission phase.
//
// Only ReplyEncoder depends on the reply style. fragments() tells its callers
// whether a read may be answered in several content chunks, and
// reports_late_errors() whether an error can still be reported after a chunk's
// header was sent. Structured and extended replies are the same chunks behind
// headers of different lengths; only the block status differs.
//
// Each Encode function writes a reply to `request` at `out` and returns the
// address after the last written byte: at most kMaxReplyBytes, except for a
// block status. Nothing is allocated.
#ifndef NBDINETD_PROTOCOL_REPLY_H_
#define NBDINETD_PROTOCOL_REPLY_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "protocol/nbd.h"
#include "protocol/request.h"

namespace nbdinetd {

enum class ReplyStyle { kSimple, kStructured, kExtended };

// One block status descriptor ("NBD_REPLY_TYPE_BLOCK_STATUS_EXT").
struct StatusDescriptor {
  uint64_t length;  // bytes, not 0; at most max_descriptor_length()
  uint32_t status;  // NBD_STATE_*
};

class ReplyEncoder {
 public:
  explicit ReplyEncoder(ReplyStyle style);

  bool fragments(const Request& request) const {
    return has_chunks() && !request.has(NBD_CMD_FLAG_DF);
  }
  bool reports_late_errors() const { return has_chunks(); }

  // The length in bytes of what EncodeDataHeader() writes.
  size_t data_header_bytes() const { return data_header_bytes_; }
  // Announces `length` bytes of the export from `offset`, which must follow.
  // `done`: this is the reply's last chunk, and no error can follow. A simple
  // reply has only one such header, and ignores `done`.
  char* EncodeDataHeader(char* out, const Request& request, uint64_t offset,
                         uint32_t length, bool done) const;

  // Announces that `length` bytes from `offset` are zeroes. Only where
  // fragments() returns true.
  char* EncodeHole(char* out, const Request& request, uint64_t offset,
                   uint32_t length, bool done) const;

  // Ends a reply whose chunks were sent without `done`. Simple replies have no
  // such end.
  char* EncodeDone(char* out, const Request& request) const;

  // Success of a request whose reply has no payload.
  char* EncodeSuccess(char* out, const Request& request) const;

  // The request failed. Only chunks carry the sentence.
  char* EncodeError(char* out, const Request& request, NbdError error,
                    absl::string_view sentence) const;

  // The same for an error at a known `offset`. Where reports_late_errors()
  // returns true, it may also follow data whose header was already sent.
  char* EncodeErrorAt(char* out, const Request& request, NbdError error,
                      absl::string_view sentence, uint64_t offset) const;

  // The longest extent of one descriptor: in a structured reply, its length has
  // 32 bits, and must be a multiple of the minimum block size, 64 KiB at most.
  uint64_t max_descriptor_length() const {
    return style_ == ReplyStyle::kExtended ? UINT64_MAX : 0xffff0000;
  }
  // The length in bytes of what EncodeBlockStatus() writes. Only where
  // structured or extended replies were negotiated.
  size_t block_status_bytes(size_t descriptors) const {
    return style_ == ReplyStyle::kExtended ? 40 + 16 * descriptors
                                           : 24 + 8 * descriptors;
  }
  char* EncodeBlockStatus(char* out, const Request& request,
                          uint32_t context_id,
                          absl::Span<const StatusDescriptor> descriptors) const;

 private:
  bool has_chunks() const { return style_ != ReplyStyle::kSimple; }
  // The header of a chunk with `length` bytes of payload.
  char* StoreChunkHeader(char* out, const Request& request, uint16_t type,
                         bool done, uint32_t length) const;

  ReplyStyle style_;
  size_t data_header_bytes_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_REPLY_H_
