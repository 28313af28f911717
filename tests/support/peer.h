// An NBD client made for tests: it can send any bytes at all, and it holds
// every byte that comes back against the specification. Each MUST on the shape
// of a reply is checked here, once, and therefore in every test that receives
// one; see ReceiveReply and Negotiate.

#ifndef NBDINETD_TESTS_SUPPORT_PEER_H_
#define NBDINETD_TESTS_SUPPORT_PEER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire.h"

namespace nbdtest {

// One answer of the server during option haggling.
struct OptionReply {
  uint32_t type = 0;
  Bytes payload;
};

// All answers to one option; the last one is final.
struct OptionAnswer {
  uint32_t final_type = 0;
  // The text beside an error.
  std::string message;
  std::vector<OptionReply> replies;  // Without the final one.

  bool ok() const { return final_type == kRepAck; }
};

// What the server told of an export with NBD_REP_INFO.
struct ExportInfo {
  uint64_t size = 0;
  uint16_t flags = 0;
  std::optional<std::string> name;
  std::optional<std::string> description;
  struct BlockSize {
    uint32_t minimum = 0;
    uint32_t preferred = 0;
    uint32_t maximum_payload = 0;
    bool operator==(const BlockSize&) const = default;
  };
  std::optional<BlockSize> block_size;

  bool operator==(const ExportInfo&) const = default;
};

struct MetaContext {
  uint32_t id = 0;
  std::string name;
};

// One content chunk of a structured reply to NBD_CMD_READ.
struct Piece {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool hole = false;
};

struct Extent {
  uint64_t length = 0;
  uint32_t flags = 0;
};

// A reply of the transmission phase, put together from all of its chunks.
struct Reply {
  uint64_t cookie = 0;
  bool structured = false;  // in chunks, those of extended headers included
  uint32_t error = kNbdOk;
  std::string message;
  Bytes data;  // Of a successful read: exactly the length asked for.
  std::vector<Piece> pieces;
  std::vector<Extent> extents;
  uint32_t context_id = 0;
  int chunks = 0;
};

class Peer {
 public:
  // Takes over the descriptors; the same one twice for a socket.
  Peer(int in, int out);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // -- Raw bytes. Every wait ends with BrokenConversation at the hang guard,
  // and with ConnectionEnded when the server has closed.

  // Sends all of it. What arrives meanwhile is kept for later, so that two full
  // socket buffers never wait for each other.
  void Send(std::string_view bytes);
  // The same, but lets arriving bytes lie in the socket: a client that does not
  // read.
  void SendWithoutReading(std::string_view bytes);
  // Each byte in a packet of its own, the next one only when the server took
  // the last.
  void SendByteByByte(std::string_view bytes);
  // Waits until the server has read all that was sent (a TCP socket only tells
  // that its machine has it), or has closed.
  void WaitUntilRead();
  // As much as can go out without waiting; false when the server has already
  // closed.
  bool TrySend(std::string_view bytes);
  // Sends the same bytes over and over, throwing away what comes back, until
  // the server closes; false when it hasn't by the hang guard.
  bool SendsUntilTheEnd(std::string_view bytes);
  Bytes Receive(size_t size);
  // All bytes up to the end of the stream.
  Bytes ReceiveToEnd();
  // Waits for the next byte or the end of the stream, and says whether it was
  // the end.
  bool AtEnd();

  // Half-close: no more bytes from the client, but it still reads.
  void ShutdownWrite();
  void Close();
  // Closes so that a TCP server sees a reset.
  void CloseWithReset();
  // One byte at a time in everything sent and received from now on.
  void set_byte_by_byte(bool on) { byte_by_byte_ = on; }
  // No read or write moves more bytes than this.
  void set_read_limit(size_t bytes) { read_limit_ = bytes; }
  void set_write_limit(size_t bytes) { write_limit_ = bytes; }

  // -- Handshake

  // The greeting: magic, IHAVEOPT, handshake flags, which are returned.
  uint16_t ReceiveGreeting();
  void SendClientFlags(uint32_t flags);
  void SendOption(uint32_t option, std::string_view payload = {});
  // Reads the replies to the option up to the final one, and checks the form of
  // each.
  OptionAnswer ReceiveAnswer(uint32_t option);
  OptionAnswer Negotiate(uint32_t option, std::string_view payload = {});
  // The greeting and the usual two client flags.
  void Open();
  // NBD_OPT_STRUCTURED_REPLY, which must succeed.
  void NegotiateStructuredReplies();
  // NBD_OPT_EXTENDED_HEADERS, which must succeed.
  void NegotiateExtendedHeaders();
  // NBD_OPT_SET_META_CONTEXT for base:allocation, which must succeed.
  void SelectAllocationContext(std::string_view name = {});
  // NBD_OPT_GO, which must succeed.
  ExportInfo Go(std::string_view name = {},
                const std::vector<uint16_t>& infos = {});
  // Open, the style with the allocation context if wanted, Go.
  ExportInfo EnterTransmission(Style style, bool allocation_context = false);
  ExportInfo EnterTransmission(bool structured,
                               bool allocation_context = false) {
    return EnterTransmission(structured ? Style::kStructured : Style::kSimple,
                             allocation_context);
  }
  // As if another program had negotiated this on the connection before.
  void SkipHandshake(Style style, bool allocation_context);

  // -- Transmission

  // Remembers the request as pending, and returns its bytes for the test to
  // send.
  Bytes Prepare(Request request, std::string_view payload = {});
  // Prepares and sends; returns the cookie.
  uint64_t SendRequest(const Request& request, std::string_view payload = {});
  // The next request that is answered completely. Chunks of others may lie in
  // between.
  Reply ReceiveReply();
  // Replies to all that is pending, by cookie.
  std::map<uint64_t, Reply> ReceiveAllReplies();
  Reply Transact(const Request& request, std::string_view payload = {});
  size_t pending() const { return pending_.size(); }

  // NBD_CMD_DISC; then the server must close without another byte.
  void Disconnect();

 private:
  struct Pending {
    Request request;
    Reply reply;
    bool has_status = false;
    Bytes data;
  };

  void WaitFor(short events, int fd, std::string_view what);
  // Takes what the kernel has, without waiting; false at the end of the stream.
  bool Fill();
  OptionAnswer ReceiveReplies(uint32_t option);
  size_t SendSome(std::string_view bytes);
  void WaitUntilTaken();
  Reply ReceiveSimpleReply();
  // Takes one chunk; returns the reply when it was the last one.
  std::optional<Reply> ReceiveChunk();
  // Takes the payload of a chunk of this type.
  void TakeChunk(Pending& pending, uint16_t type, const Bytes& bytes);
  void TakeContent(Pending& pending, uint64_t offset, uint64_t length,
                   bool hole);
  void TakeStatus(Pending& pending, uint16_t type, Reader& payload);
  void TakeError(Pending& pending, uint16_t type, Reader& payload);
  void CheckComplete(const Pending& pending) const;
  std::multimap<uint64_t, Pending>::iterator FindPending(uint64_t cookie);

  int in_;
  int out_;
  Bytes buffer_;
  size_t buffer_start_ = 0;
  bool end_seen_ = false;
  bool byte_by_byte_ = false;
  size_t read_limit_ = SIZE_MAX;
  size_t write_limit_ = SIZE_MAX;
  Style style_ = Style::kSimple;
  std::optional<uint32_t> context_id_;
  uint64_t next_cookie_ = 0x1122334455667788;
  // A client may use a cookie twice at a time; the oldest is answered first
  // then, which is good enough for tests that send the same request twice.
  std::multimap<uint64_t, Pending> pending_;
};

// The replies of NBD_OPT_INFO or NBD_OPT_GO taken apart; NBD_INFO_EXPORT must
// be there, and no information type twice.
ExportInfo ParseInfo(const OptionAnswer& answer);
// The replies of NBD_OPT_LIST: name and description.
std::vector<std::pair<std::string, std::string>> ParseList(
    const OptionAnswer& answer);
std::vector<MetaContext> ParseMetaContexts(const OptionAnswer& answer);

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_PEER_H_
