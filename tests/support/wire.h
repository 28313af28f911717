// The NBD protocol as the tests know it: every number here was taken from the
// text of the specification, section by section, and nothing from src/. A wrong
// constant in the server must therefore show up as a failing test instead of
// agreeing with itself.

#ifndef NBDINETD_TESTS_SUPPORT_WIRE_H_
#define NBDINETD_TESTS_SUPPORT_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace nbdtest {

// Raw bytes of the wire. A std::string, because literals and slices of it are
// short to write.
using Bytes = std::string;

// Thrown by the whole support library when a conversation cannot go on: the
// server sent what the specification forbids, closed too early, or nothing came
// before the hang guard. A test has nothing sensible left to do then;
// GoogleTest reports the text as the test's failure.
class BrokenConversation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The server has closed the connection, which may be what it should do.
class ConnectionEnded : public BrokenConversation {
 public:
  using BrokenConversation::BrokenConversation;
};

// "Newstyle negotiation", "Fixed newstyle negotiation", "Request message",
// "Simple reply message", "Structured reply chunk message".
inline constexpr uint64_t kNbdMagic = 0x4e42444d41474943;
inline constexpr uint64_t kIHaveOpt = 0x49484156454F5054;
inline constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
// "Request message" and "Extended reply chunk message" of the branch
// extension-ext-header.
inline constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;

// "Handshake flags" and "Client flags".
inline constexpr uint16_t kFlagFixedNewstyle = 1u << 0;
inline constexpr uint16_t kFlagNoZeroes = 1u << 1;
inline constexpr uint32_t kClientFixedNewstyle = 1u << 0;
inline constexpr uint32_t kClientNoZeroes = 1u << 1;

// "Transmission flags".
inline constexpr uint16_t kHasFlags = 1u << 0;
inline constexpr uint16_t kReadOnly = 1u << 1;
inline constexpr uint16_t kSendFlush = 1u << 2;
inline constexpr uint16_t kSendFua = 1u << 3;
inline constexpr uint16_t kRotational = 1u << 4;
inline constexpr uint16_t kSendTrim = 1u << 5;
inline constexpr uint16_t kSendWriteZeroes = 1u << 6;
inline constexpr uint16_t kSendDf = 1u << 7;
inline constexpr uint16_t kCanMultiConn = 1u << 8;
inline constexpr uint16_t kSendCache = 1u << 10;
inline constexpr uint16_t kSendFastZero = 1u << 11;
inline constexpr uint16_t kBlockStatusPayload = 1u << 12;

// "Option types".
inline constexpr uint32_t kOptExportName = 1;
inline constexpr uint32_t kOptAbort = 2;
inline constexpr uint32_t kOptList = 3;
inline constexpr uint32_t kOptPeekExport = 4;
inline constexpr uint32_t kOptStartTls = 5;
inline constexpr uint32_t kOptInfo = 6;
inline constexpr uint32_t kOptGo = 7;
inline constexpr uint32_t kOptStructuredReply = 8;
inline constexpr uint32_t kOptListMetaContext = 9;
inline constexpr uint32_t kOptSetMetaContext = 10;
inline constexpr uint32_t kOptExtendedHeaders = 11;

// "Option reply types".
inline constexpr uint32_t kRepAck = 1;
inline constexpr uint32_t kRepServer = 2;
inline constexpr uint32_t kRepInfo = 3;
inline constexpr uint32_t kRepMetaContext = 4;
inline constexpr uint32_t kRepErrorBit = 1u << 31;
inline constexpr uint32_t kRepErrUnsup = kRepErrorBit + 1;
inline constexpr uint32_t kRepErrPolicy = kRepErrorBit + 2;
inline constexpr uint32_t kRepErrInvalid = kRepErrorBit + 3;
inline constexpr uint32_t kRepErrPlatform = kRepErrorBit + 4;
inline constexpr uint32_t kRepErrTlsReqd = kRepErrorBit + 5;
inline constexpr uint32_t kRepErrUnknown = kRepErrorBit + 6;
inline constexpr uint32_t kRepErrShutdown = kRepErrorBit + 7;
inline constexpr uint32_t kRepErrBlockSizeReqd = kRepErrorBit + 8;
inline constexpr uint32_t kRepErrTooBig = kRepErrorBit + 9;
inline constexpr uint32_t kRepErrExtHeaderReqd = kRepErrorBit + 10;

// "NBD_REP_INFO".
inline constexpr uint16_t kInfoExport = 0;
inline constexpr uint16_t kInfoName = 1;
inline constexpr uint16_t kInfoDescription = 2;
inline constexpr uint16_t kInfoBlockSize = 3;

// "Request types".
inline constexpr uint16_t kCmdRead = 0;
inline constexpr uint16_t kCmdWrite = 1;
inline constexpr uint16_t kCmdDisc = 2;
inline constexpr uint16_t kCmdFlush = 3;
inline constexpr uint16_t kCmdTrim = 4;
inline constexpr uint16_t kCmdCache = 5;
inline constexpr uint16_t kCmdWriteZeroes = 6;
inline constexpr uint16_t kCmdBlockStatus = 7;
inline constexpr uint16_t kCmdResize = 8;

// "Command flags".
inline constexpr uint16_t kCmdFlagFua = 1u << 0;
inline constexpr uint16_t kCmdFlagNoHole = 1u << 1;
inline constexpr uint16_t kCmdFlagDf = 1u << 2;
inline constexpr uint16_t kCmdFlagReqOne = 1u << 3;
inline constexpr uint16_t kCmdFlagFastZero = 1u << 4;
inline constexpr uint16_t kCmdFlagPayloadLen = 1u << 5;

// "Structured reply flags" and "Structured reply types".
inline constexpr uint16_t kReplyFlagDone = 1u << 0;
inline constexpr uint16_t kReplyNone = 0;
inline constexpr uint16_t kReplyOffsetData = 1;
inline constexpr uint16_t kReplyOffsetHole = 2;
inline constexpr uint16_t kReplyBlockStatus = 5;
inline constexpr uint16_t kReplyBlockStatusExt = 6;
inline constexpr uint16_t kReplyErrorBit = 1u << 15;
inline constexpr uint16_t kReplyError = kReplyErrorBit + 1;
inline constexpr uint16_t kReplyErrorOffset = kReplyErrorBit + 2;

// "The base:allocation metadata context".
inline constexpr uint32_t kStateHole = 1u << 0;
inline constexpr uint32_t kStateZero = 1u << 1;

// "Error values".
inline constexpr uint32_t kNbdOk = 0;
inline constexpr uint32_t kNbdEperm = 1;
inline constexpr uint32_t kNbdEio = 5;
inline constexpr uint32_t kNbdEnomem = 12;
inline constexpr uint32_t kNbdEinval = 22;
inline constexpr uint32_t kNbdEnospc = 28;
inline constexpr uint32_t kNbdEoverflow = 75;
inline constexpr uint32_t kNbdEnotsup = 95;
inline constexpr uint32_t kNbdEshutdown = 108;

// "Conventions": no string may be longer.
inline constexpr size_t kMaxString = 4096;

// What nbdinetd itself promises to its users.
inline constexpr uint32_t kMaxPayload = 32u << 20;      // advertised
inline constexpr uint32_t kLongestRequest = 64u << 20;  // served
inline constexpr uint32_t kMaxOptionPayload = 64u << 10;
inline constexpr int kExitOk = 0;
inline constexpr int kExitUsage = 64;
inline constexpr int kExitNoInput = 66;
inline constexpr int kExitUnavailable = 69;
inline constexpr int kExitSystem = 71;
inline constexpr int kExitProtocol = 76;

// Builds big-endian messages.
class Writer {
 public:
  Writer& U16(uint16_t value) { return Number(value, 2); }
  Writer& U32(uint32_t value) { return Number(value, 4); }
  Writer& U64(uint64_t value) { return Number(value, 8); }
  Writer& Raw(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }
  // A string preceded by its 32-bit length, as in most option payloads.
  Writer& String32(std::string_view bytes) {
    return U32(static_cast<uint32_t>(bytes.size())).Raw(bytes);
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Writer& Number(uint64_t value, int size);

  Bytes bytes_;
};

// Takes big-endian messages apart; throws BrokenConversation when they are too
// short.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  uint16_t U16() { return static_cast<uint16_t>(Number(2)); }
  uint32_t U32() { return static_cast<uint32_t>(Number(4)); }
  uint64_t U64() { return Number(8); }
  Bytes Raw(size_t size);
  Bytes Rest() { return Raw(rest_.size()); }
  size_t left() const { return rest_.size(); }

 private:
  uint64_t Number(size_t size);

  std::string_view rest_;
};

// "Conventions": valid UTF-8, no NUL, at most 4096 bytes.
bool IsProtocolString(std::string_view text);

// The word of the specification for a number, for readable failures.
std::string OptionReplyName(uint32_t type);
std::string ErrorName(uint32_t error);

// The payload of NBD_OPT_INFO and NBD_OPT_GO.
template <typename Infos>
Bytes InfoPayload(std::string_view name, const Infos& infos) {
  Writer writer;
  writer.String32(name).U16(static_cast<uint16_t>(infos.size()));
  for (uint16_t info : infos) writer.U16(info);
  return writer.bytes();
}

// The payload of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
template <typename Queries>
Bytes MetaContextPayload(std::string_view name, const Queries& queries) {
  Writer writer;
  writer.String32(name).U32(static_cast<uint32_t>(queries.size()));
  for (std::string_view query : queries) writer.String32(query);
  return writer.bytes();
}

// An option with its header.
Bytes OptionMessage(uint32_t option, std::string_view payload);

// A request header of the transmission phase.
struct Request {
  uint16_t type = kCmdRead;
  uint16_t flags = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  // Chosen by the peer when the test has no wish.
  std::optional<uint64_t> cookie = std::nullopt;
  // The peer gives a write NBD_CMD_FLAG_PAYLOAD_LEN where it must have it,
  // unless the test wants the flags as they are.
  bool flags_as_they_are = false;
};
// A compact request, whose length has 32 bits.
Bytes RequestMessage(const Request& request);
// The same as an extended request; the flags stay as they are.
Bytes ExtendedRequestMessage(const Request& request);

// What a connection has negotiated: simple replies, structured ones, or
// extended headers.
enum class Style { kSimple, kStructured, kExtended };
inline constexpr Style kEachStyle[] = {Style::kSimple, Style::kStructured,
                                       Style::kExtended};
// "Simple", "Structured" or "Extended".
std::string NameOf(Style style);
// The header that belongs to the style; the flags stay as they are.
Bytes RequestMessage(Style style, const Request& request);

// The payload of NBD_CMD_BLOCK_STATUS with NBD_CMD_FLAG_PAYLOAD_LEN.
template <typename Ids>
Bytes StatusPayload(uint64_t effect_length, const Ids& ids) {
  Writer writer;
  writer.U64(effect_length);
  for (uint32_t id : ids) writer.U32(id);
  return writer.bytes();
}

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_WIRE_H_
