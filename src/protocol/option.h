// Decodes options and encodes their replies.
//
// This file uses neither exports nor descriptors. Decoded strings borrow from
// the payload. Except for export names, which the catalog checks, they are
// valid strings ("Conventions"): UTF-8 without NUL, at most 4096 bytes.
#ifndef NBDINETD_PROTOCOL_OPTION_H_
#define NBDINETD_PROTOCOL_OPTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "protocol/nbd.h"

namespace nbdinetd {

inline constexpr size_t kGreetingBytes = 18;
inline constexpr size_t kClientFlagsBytes = 4;
inline constexpr size_t kOptionHeaderBytes = 16;

// NBDMAGIC, IHAVEOPT and the handshake flags.
std::string EncodeGreeting();

struct OptionHeader {
  uint32_t option;
  uint32_t length;  // of the payload, in bytes; up to 2^32-1
};
// Returns nullopt when the magic is wrong. `bytes` holds kOptionHeaderBytes.
std::optional<OptionHeader> DecodeOptionHeader(absl::string_view bytes);

// True if `name` is a valid export name, description or query.
bool IsValidString(absl::string_view name);

// The payload of NBD_OPT_INFO and NBD_OPT_GO; nullopt if it is malformed.
struct InfoRequest {
  absl::string_view name;  // any bytes, of any length
  std::vector<uint16_t> information;
};
std::optional<InfoRequest> DecodeInfoRequest(absl::string_view payload);

// The payload of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT;
// nullopt if it is malformed.
struct MetaContextRequest {
  absl::string_view name;  // any bytes, of any length
  std::vector<absl::string_view> queries;
};
std::optional<MetaContextRequest> DecodeMetaContextRequest(
    absl::string_view payload);

// The name of our only metadata context, and the query for its whole namespace
// ("The base: metadata namespace").
inline constexpr char kBaseAllocation[] = "base:allocation";
inline constexpr char kBaseNamespace[] = "base:";

// Collects the replies to one option, to be sent together.
class OptionReplies {
 public:
  explicit OptionReplies(uint32_t option) : option_(option) {}

  void Ack() { Add(NBD_REP_ACK, {}); }
  // `message` is a sentence for a person, sent in the reply's data.
  void Error(NbdOptionReply type, absl::string_view message) {
    Add(type, message);
  }
  void Server(absl::string_view name, absl::string_view description);
  void InfoExport(uint64_t size_bytes, uint16_t transmission_flags);
  void InfoString(uint16_t information, absl::string_view text);
  void InfoBlockSize(uint32_t minimum, uint32_t preferred, uint32_t maximum);
  void MetaContext(uint32_t id, absl::string_view name);
  // The reply to NBD_OPT_EXPORT_NAME; see EncodeExportNameReply().
  void ExportName(uint64_t size_bytes, uint16_t transmission_flags,
                  bool no_zeroes);

  uint32_t option() const { return option_; }
  const std::string& bytes() const { return bytes_; }
  // Discards the replies, after they have been sent.
  void Clear() { bytes_.clear(); }

 private:
  void Add(NbdOptionReply type, absl::string_view payload);

  uint32_t option_;
  std::string bytes_;
};

// The reply to NBD_OPT_EXPORT_NAME, with 124 reserved zeroes unless the client
// negotiated NBD_FLAG_C_NO_ZEROES.
std::string EncodeExportNameReply(uint64_t size_bytes,
                                  uint16_t transmission_flags, bool no_zeroes);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_OPTION_H_
