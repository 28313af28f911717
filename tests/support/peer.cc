// Over 500 lines: all the rules on the shape of replies lie here, so that no
// test has to repeat them.

#include "support/peer.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "server_process.h"

namespace nbdtest {

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Violation(const std::string& what) {
  throw BrokenConversation(what);
}

void Require(bool condition, const std::string& what) {
  if (!condition) Violation(what);
}

// The reply type that carries information on this option, 0 when only ACK or an
// error may.
uint32_t InformationType(uint32_t option) {
  switch (option) {
    case kOptList:
      return kRepServer;
    case kOptInfo:
    case kOptGo:
      return kRepInfo;
    case kOptListMetaContext:
    case kOptSetMetaContext:
      return kRepMetaContext;
    default:
      return 0;
  }
}

bool IsKnownOptionError(uint32_t type) {
  return type >= kRepErrUnsup && type <= kRepErrExtHeaderReqd;
}

bool IsKnownError(uint32_t error) {
  constexpr std::array kErrors = {kNbdEperm,   kNbdEio,      kNbdEnomem,
                                  kNbdEinval,  kNbdEnospc,   kNbdEoverflow,
                                  kNbdEnotsup, kNbdEshutdown};
  return std::find(kErrors.begin(), kErrors.end(), error) != kErrors.end();
}

// "Error chunks": valid for these requests with an offset, for all without.
bool MayFailAtOffset(uint16_t type) {
  return type == kCmdRead || type == kCmdWrite || type == kCmdTrim ||
         type == kCmdCache || type == kCmdWriteZeroes ||
         type == kCmdBlockStatus;
}

// poll() that ends at the hang guard. It waits in many short stretches, of
// which a machine that was suspended takes away one at most.
bool PollGuarded(pollfd* entries, nfds_t count) {
  constexpr int kStretches = 60;
  constexpr auto kStretch =
      std::chrono::duration_cast<std::chrono::milliseconds>(kHangGuard) /
      kStretches;
  for (int i = 0; i < kStretches; ++i) {
    if (poll(entries, count, static_cast<int>(kStretch.count())) > 0)
      return true;
  }
  return false;
}

}  // namespace

Peer::Peer(int in, int out) : in_(in), out_(out) {
  // A server that closes early is a result to look at, not the end of the test
  // program.
  signal(SIGPIPE, SIG_IGN);
  fcntl(in_, F_SETFL, fcntl(in_, F_GETFL) | O_NONBLOCK);
  fcntl(out_, F_SETFL, fcntl(out_, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  // Fails on anything but TCP, where it does not matter.
  (void)setsockopt(out_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Peer::~Peer() { Close(); }

// -- Raw bytes

void Peer::WaitFor(short events, int fd, std::string_view what) {
  pollfd entry = {fd, events, 0};
  Require(PollGuarded(&entry, 1),
          "hang: waited too long for " + std::string(what));
}

size_t Peer::SendSome(std::string_view bytes) {
  const ssize_t count =
      write(out_, bytes.data(), std::min(bytes.size(), write_limit_));
  if (count >= 0) return static_cast<size_t>(count);
  if (errno == EAGAIN || errno == EINTR) return 0;
  throw ConnectionEnded(
      std::string("the server closed while the client was sending: ") +
      std::strerror(errno));
}

void Peer::Send(std::string_view bytes) {
  if (byte_by_byte_) return SendByteByByte(bytes);
  while (!bytes.empty()) {
    bytes.remove_prefix(SendSome(bytes));
    if (bytes.empty()) return;
    std::array<pollfd, 2> entries = {pollfd{out_, POLLOUT, 0},
                                     pollfd{in_, POLLIN, 0}};
    // After the end of the stream POLLIN would be ready for ever.
    const nfds_t count = end_seen_ ? 1 : 2;
    Require(PollGuarded(entries.data(), count),
            "hang: the server neither reads nor writes");
    if (count == 2 && entries[1].revents != 0) Fill();
  }
}

void Peer::SendWithoutReading(std::string_view bytes) {
  while (!bytes.empty()) {
    bytes.remove_prefix(SendSome(bytes));
    if (!bytes.empty()) WaitFor(POLLOUT, out_, "the server to read");
  }
}

void Peer::SendByteByByte(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size(); ++at) {
    SendWithoutReading(bytes.substr(at, 1));
    WaitUntilTaken();
  }
}

void Peer::WaitUntilTaken() {
  // Where the kernel can't tell, or the server is busy with something else, the
  // next byte goes out all the same: this makes short reads likely, it asserts
  // nothing.
  const auto deadline = Clock::now() + std::chrono::milliseconds(200);
  for (int unread = 1; unread > 0 && Clock::now() < deadline; sched_yield()) {
    if (ioctl(out_, SIOCOUTQ, &unread) != 0 &&
        ioctl(out_, FIONREAD, &unread) != 0)
      return;
  }
}

void Peer::WaitUntilRead() {
  const auto deadline = Clock::now() + kHangGuard;
  for (;;) {
    int unread = 0;
    if (ioctl(out_, SIOCOUTQ, &unread) != 0) ioctl(out_, FIONREAD, &unread);
    pollfd entry = {out_, 0, 0};
    if (unread == 0 || (poll(&entry, 1, 0) > 0 && entry.revents != 0)) return;
    Require(Clock::now() < deadline, "hang: the server doesn't read");
    sched_yield();
  }
}

bool Peer::TrySend(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(out_, bytes.data(), bytes.size());
    if (count < 0 && errno == EAGAIN) return true;
    if (count < 0 && errno != EINTR) return false;
    if (count > 0) bytes.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

bool Peer::SendsUntilTheEnd(std::string_view bytes) {
  const auto deadline = Clock::now() + kHangGuard / 2;
  std::string_view rest = bytes;
  while (Clock::now() < deadline) {
    const ssize_t count = write(out_, rest.data(), rest.size());
    if (count < 0 && errno != EAGAIN && errno != EINTR) return true;
    if (count > 0) rest.remove_prefix(static_cast<size_t>(count));
    // Messages stay whole, so that each is valid.
    if (rest.empty()) rest = bytes;
    if (!Fill()) return true;
    buffer_.clear();
    buffer_start_ = 0;
  }
  return false;
}

bool Peer::Fill() {
  if (end_seen_) return false;
  if (buffer_start_ == buffer_.size()) {
    buffer_.clear();
    buffer_start_ = 0;
  } else if (buffer_start_ > kLongestRequest) {
    // A conversation that is never quiet must not be kept from its beginning.
    buffer_.erase(0, buffer_start_);
    buffer_start_ = 0;
  }
  std::array<char, 256 * 1024> chunk;
  const ssize_t count =
      read(in_, chunk.data(),
           byte_by_byte_ ? 1 : std::min(chunk.size(), read_limit_));
  if (count > 0) {
    buffer_.append(chunk.data(), static_cast<size_t>(count));
  } else if (count == 0 || errno == ECONNRESET) {
    // A server that leaves bytes of the client unread closes with a reset; to
    // the client that is the end of the stream as well.
    end_seen_ = true;
  } else if (errno != EAGAIN && errno != EINTR) {
    Violation(std::string("failed to receive: ") + std::strerror(errno));
  }
  return !end_seen_;
}

Bytes Peer::Receive(size_t size) {
  while (buffer_.size() - buffer_start_ < size) {
    if (end_seen_) {
      throw ConnectionEnded("the server closed: wanted " +
                            std::to_string(size) + " bytes, got " +
                            std::to_string(buffer_.size() - buffer_start_));
    }
    WaitFor(POLLIN, in_, std::to_string(size) + " bytes from the server");
    Fill();
  }
  Bytes bytes = buffer_.substr(buffer_start_, size);
  buffer_start_ += size;
  return bytes;
}

Bytes Peer::ReceiveToEnd() {
  while (!end_seen_) {
    WaitFor(POLLIN, in_, "the server to close");
    Fill();
  }
  return Receive(buffer_.size() - buffer_start_);
}

bool Peer::AtEnd() {
  while (!end_seen_ && buffer_start_ == buffer_.size()) {
    WaitFor(POLLIN, in_, "a byte or the end of the stream");
    Fill();
  }
  return buffer_start_ == buffer_.size();
}

void Peer::ShutdownWrite() {
  if (in_ == out_) {
    shutdown(out_, SHUT_WR);
  } else {
    close(std::exchange(out_, -1));
  }
}

void Peer::Close() {
  if (out_ >= 0 && out_ != in_) close(out_);
  if (in_ >= 0) close(in_);
  in_ = out_ = -1;
}

void Peer::CloseWithReset() {
  const linger at_once = {1, 0};
  setsockopt(in_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  Close();
}

// -- Handshake

uint16_t Peer::ReceiveGreeting() {
  const Bytes greeting = Receive(18);
  Reader reader(greeting);
  Require(reader.U64() == kNbdMagic,
          "the greeting does not begin with NBDMAGIC");
  Require(reader.U64() == kIHaveOpt,
          "the greeting does not go on with IHAVEOPT");
  return reader.U16();
}

void Peer::SendClientFlags(uint32_t flags) {
  Send(Writer().U32(flags).bytes());
}

void Peer::SendOption(uint32_t option, std::string_view payload) {
  Send(OptionMessage(option, payload));
}

OptionAnswer Peer::ReceiveAnswer(uint32_t option) {
  OptionAnswer answer = ReceiveReplies(option);
  // What was negotiated decides which replies are right later on.
  if (option == kOptStructuredReply && answer.ok()) {
    Require(style_ != Style::kExtended,
            "structured replies in spite of extended headers");
    style_ = Style::kStructured;
  }
  if (option == kOptExtendedHeaders && answer.ok()) style_ = Style::kExtended;
  if (option == kOptSetMetaContext) {
    const std::vector<MetaContext> contexts = ParseMetaContexts(answer);
    Require(contexts.size() <= 1, "more contexts selected than there are");
    // A selection that fails takes the one before away as well.
    context_id_.reset();
    if (answer.ok() && !contexts.empty()) context_id_ = contexts[0].id;
  }
  return answer;
}

OptionAnswer Peer::ReceiveReplies(uint32_t option) {
  OptionAnswer answer;
  for (;;) {
    const Bytes header = Receive(20);
    Reader reader(header);
    Require(reader.U64() == kOptionReplyMagic,
            "an option reply has a wrong magic");
    const uint32_t echoed = reader.U32();
    Require(echoed == option, "the reply is to option " +
                                  std::to_string(echoed) + ", asked was " +
                                  std::to_string(option));
    const uint32_t type = reader.U32();
    const uint32_t length = reader.U32();
    Require(length <= kMaxOptionPayload, OptionReplyName(type) + " is huge");
    const Bytes payload = Receive(length);
    if (type == kRepAck) {
      Require(length == 0, "NBD_REP_ACK carries data");
      answer.final_type = type;
      return answer;
    }
    if ((type & kRepErrorBit) != 0) {
      Require(IsKnownOptionError(type),
              "unknown error reply " + std::to_string(type));
      // Forbidden to a server without TLS, whatever the option is.
      Require(type != kRepErrTlsReqd,
              "a server without TLS sent NBD_REP_ERR_TLS_REQD");
      Require(IsProtocolString(payload),
              "the text of an error reply is no valid string");
      answer.final_type = type;
      answer.message = payload;
      return answer;
    }
    Require(type == InformationType(option), OptionReplyName(type) +
                                                 " is no reply to option " +
                                                 std::to_string(option));
    answer.replies.push_back({type, payload});
  }
}

OptionAnswer Peer::Negotiate(uint32_t option, std::string_view payload) {
  SendOption(option, payload);
  return ReceiveAnswer(option);
}

void Peer::Open() {
  ReceiveGreeting();
  SendClientFlags(kClientFixedNewstyle | kClientNoZeroes);
}

void Peer::NegotiateStructuredReplies() {
  const OptionAnswer answer = Negotiate(kOptStructuredReply);
  Require(answer.ok(),
          "structured replies refused: " + OptionReplyName(answer.final_type));
}

void Peer::NegotiateExtendedHeaders() {
  const OptionAnswer answer = Negotiate(kOptExtendedHeaders);
  Require(answer.ok(),
          "extended headers refused: " + OptionReplyName(answer.final_type));
}

void Peer::SelectAllocationContext(std::string_view name) {
  const std::vector<std::string> queries = {"base:allocation"};
  const OptionAnswer answer =
      Negotiate(kOptSetMetaContext, MetaContextPayload(name, queries));
  Require(answer.ok(),
          "no context selected: " + OptionReplyName(answer.final_type));
  const std::vector<MetaContext> contexts = ParseMetaContexts(answer);
  Require(contexts.size() == 1 && contexts[0].name == "base:allocation",
          "base:allocation was not selected");
}

ExportInfo Peer::Go(std::string_view name, const std::vector<uint16_t>& infos) {
  const OptionAnswer answer = Negotiate(kOptGo, InfoPayload(name, infos));
  Require(answer.ok(),
          "NBD_OPT_GO failed: " + OptionReplyName(answer.final_type) + " " +
              answer.message);
  return ParseInfo(answer);
}

ExportInfo Peer::EnterTransmission(Style style, bool allocation_context) {
  Open();
  if (style == Style::kStructured) NegotiateStructuredReplies();
  if (style == Style::kExtended) NegotiateExtendedHeaders();
  if (allocation_context) SelectAllocationContext();
  return Go();
}

void Peer::SkipHandshake(Style style, bool allocation_context) {
  style_ = style;
  // nbdinetd(8) says so under --negotiated.
  if (allocation_context) context_id_ = 1;
}

ExportInfo ParseInfo(const OptionAnswer& answer) {
  ExportInfo info;
  std::vector<uint16_t> seen;
  for (const OptionReply& reply : answer.replies) {
    Reader reader(reply.payload);
    const uint16_t type = reader.U16();
    Require(std::find(seen.begin(), seen.end(), type) == seen.end(),
            "an information type came twice");
    seen.push_back(type);
    if (type == kInfoExport) {
      info.size = reader.U64();
      info.flags = reader.U16();
    } else if (type == kInfoName) {
      info.name = reader.Rest();
      Require(IsProtocolString(*info.name), "NBD_INFO_NAME is no valid string");
    } else if (type == kInfoDescription) {
      info.description = reader.Rest();
      Require(IsProtocolString(*info.description),
              "NBD_INFO_DESCRIPTION is no valid string");
    } else if (type == kInfoBlockSize) {
      ExportInfo::BlockSize sizes;
      sizes.minimum = reader.U32();
      sizes.preferred = reader.U32();
      sizes.maximum_payload = reader.U32();
      info.block_size = sizes;
    } else {
      Violation("unknown information type " + std::to_string(type));
    }
    Require(reader.left() == 0,
            "an NBD_REP_INFO is longer than its type allows");
  }
  Require(std::find(seen.begin(), seen.end(), kInfoExport) != seen.end(),
          "NBD_INFO_EXPORT is missing");
  return info;
}

std::vector<std::pair<std::string, std::string>> ParseList(
    const OptionAnswer& answer) {
  std::vector<std::pair<std::string, std::string>> exports;
  for (const OptionReply& reply : answer.replies) {
    Reader reader(reply.payload);
    const uint32_t length = reader.U32();
    std::string name = reader.Raw(length);
    std::string description = reader.Rest();
    Require(IsProtocolString(name),
            "the name in NBD_REP_SERVER is no valid string");
    Require(IsProtocolString(description),
            "the text in NBD_REP_SERVER is no valid string");
    exports.emplace_back(std::move(name), std::move(description));
  }
  return exports;
}

std::vector<MetaContext> ParseMetaContexts(const OptionAnswer& answer) {
  std::vector<MetaContext> contexts;
  for (const OptionReply& reply : answer.replies) {
    Reader reader(reply.payload);
    MetaContext context;
    context.id = reader.U32();
    context.name = reader.Rest();
    Require(IsProtocolString(context.name),
            "a context name is no valid string");
    const size_t colon = context.name.find(':');
    Require(colon != std::string::npos && colon > 0,
            "a context name has no namespace");
    contexts.push_back(std::move(context));
  }
  return contexts;
}

// -- Transmission

Bytes Peer::Prepare(Request request, std::string_view payload) {
  if (!request.cookie.has_value()) request.cookie = next_cookie_++;
  if (style_ == Style::kExtended && request.type == kCmdWrite &&
      !request.flags_as_they_are) {
    request.flags |= kCmdFlagPayloadLen;
  }
  if (request.type != kCmdDisc) {
    Pending pending;
    pending.request = request;
    pending.reply.cookie = *request.cookie;
    if (request.type == kCmdBlockStatus && payload.size() >= 8) {
      // What the reply is held against is the effect length.
      pending.request.length = Reader(payload).U64();
    }
    pending_.emplace(*request.cookie, std::move(pending));
  }
  Bytes message = RequestMessage(style_, request);
  message.append(payload);
  return message;
}

uint64_t Peer::SendRequest(const Request& request, std::string_view payload) {
  Request numbered = request;
  if (!numbered.cookie.has_value()) numbered.cookie = next_cookie_++;
  Send(Prepare(numbered, payload));
  return *numbered.cookie;
}

std::multimap<uint64_t, Peer::Pending>::iterator Peer::FindPending(
    uint64_t cookie) {
  // lower_bound, because find() may return any of several equal keys.
  const auto found = pending_.lower_bound(cookie);
  Require(found != pending_.end() && found->first == cookie,
          "a reply has the cookie of no pending request: " +
              std::to_string(cookie));
  return found;
}

Reply Peer::ReceiveReply() {
  Require(!pending_.empty(), "the test waits for a reply to nothing");
  for (;;) {
    const uint32_t magic = Reader(Receive(4)).U32();
    if (style_ == Style::kExtended) {
      Require(magic == kExtendedReplyMagic, "a reply that is not extended");
    } else if (magic == kSimpleReplyMagic) {
      return ReceiveSimpleReply();
    } else {
      Require(magic == kStructuredReplyMagic, "a reply has the wrong magic");
      Require(style_ == Style::kStructured,
              "a structured reply without negotiation");
    }
    std::optional<Reply> reply = ReceiveChunk();
    if (reply.has_value()) return *std::move(reply);
  }
}

Reply Peer::ReceiveSimpleReply() {
  const Bytes header = Receive(12);
  Reader reader(header);
  const uint32_t error = reader.U32();
  const auto found = FindPending(reader.U64());
  const Request& request = found->second.request;
  Require(error == kNbdOk || IsKnownError(error),
          "the specification has no error " + std::to_string(error));
  Require(style_ == Style::kSimple ||
              (request.type != kCmdRead && request.type != kCmdBlockStatus),
          "a simple reply to a request that takes structured replies");
  Require(found->second.reply.chunks == 0,
          "a simple reply amid the chunks of a reply");
  Reply reply = std::move(found->second.reply);
  reply.error = error;
  if (request.type == kCmdRead && error == kNbdOk)
    reply.data = Receive(request.length);
  pending_.erase(found);
  return reply;
}

std::optional<Reply> Peer::ReceiveChunk() {
  const bool extended = style_ == Style::kExtended;
  // Behind the magic.
  const Bytes header = Receive(extended ? 28 : 16);
  Reader reader(header);
  const uint16_t flags = reader.U16();
  const uint16_t type = reader.U16();
  const uint64_t cookie = reader.U64();
  const auto found = FindPending(cookie);
  Pending& pending = found->second;
  Require(!extended || reader.U64() == pending.request.offset,
          "an extended reply has another offset than its request");
  const uint64_t length = extended ? reader.U64() : reader.U32();
  Require((flags & ~kReplyFlagDone) == 0, "a chunk has an unknown flag");
  // The server may exceed its maximum payload by the fixed part of a chunk
  // only. All others but the data are far shorter.
  Require(length <= kMaxPayload + (type == kReplyOffsetData ? 8 : 0),
          "a chunk exceeds the maximum payload");
  const bool done = (flags & kReplyFlagDone) != 0;
  Require(type != kReplyNone || done, "NBD_REPLY_TYPE_NONE without DONE");
  pending.reply.structured = true;
  pending.reply.chunks++;
  TakeChunk(pending, type, Receive(length));
  if (!done) return std::nullopt;
  CheckComplete(pending);
  Reply reply = std::move(pending.reply);
  if (reply.error == kNbdOk) reply.data = std::move(pending.data);
  pending_.erase(found);
  return reply;
}

void Peer::TakeChunk(Pending& pending, uint16_t type, const Bytes& bytes) {
  Reader payload(bytes);
  switch (type) {
    case kReplyNone:
      Require(bytes.empty(), "NBD_REPLY_TYPE_NONE carries data");
      break;
    case kReplyOffsetData: {
      Require(bytes.size() >= 9, "NBD_REPLY_TYPE_OFFSET_DATA without data");
      const uint64_t offset = payload.U64();
      TakeContent(pending, offset, payload.left(), false);
      const uint64_t at = offset - pending.request.offset;
      const Bytes data = payload.Rest();
      pending.data.replace(at, data.size(), data);
      break;
    }
    case kReplyOffsetHole: {
      Require(bytes.size() == 12,
              "NBD_REPLY_TYPE_OFFSET_HOLE of a wrong length");
      const uint64_t offset = payload.U64();
      const uint32_t size = payload.U32();
      Require(size > 0, "NBD_REPLY_TYPE_OFFSET_HOLE of size 0");
      TakeContent(pending, offset, size, true);
      break;
    }
    case kReplyBlockStatus:
    case kReplyBlockStatusExt:
      TakeStatus(pending, type, payload);
      break;
    case kReplyError:
    case kReplyErrorOffset:
      TakeError(pending, type, payload);
      break;
    default:
      Violation("unknown chunk type " + std::to_string(type));
  }
}

void Peer::TakeContent(Pending& pending, uint64_t offset, uint64_t length,
                       bool hole) {
  const Request& request = pending.request;
  Require(request.type == kCmdRead,
          "a content chunk for a request that is no read");
  Require(offset >= request.offset &&
              offset - request.offset <= request.length &&
              length <= request.length - (offset - request.offset),
          "a content chunk lies outside the request");
  for (const Piece& piece : pending.reply.pieces) {
    Require(offset + length <= piece.offset ||
                piece.offset + piece.length <= offset,
            "two content chunks overlap");
  }
  Require((request.flags & kCmdFlagDf) == 0 || pending.reply.pieces.empty(),
          "a second content chunk in spite of NBD_CMD_FLAG_DF");
  pending.reply.pieces.push_back({offset, length, hole});
  // A hole reads as zeroes, which is what the buffer is born with.
  pending.data.resize(request.length, '\0');
}

void Peer::TakeStatus(Pending& pending, uint16_t type, Reader& payload) {
  const Request& request = pending.request;
  const bool extended = style_ == Style::kExtended;
  Require(type == (extended ? kReplyBlockStatusExt : kReplyBlockStatus),
          "a block status chunk of the other kind of headers");
  Require(request.type == kCmdBlockStatus,
          "a block status chunk for another request");
  Require(!pending.has_status,
          "a second block status chunk for the same context");
  pending.has_status = true;
  pending.reply.context_id = payload.U32();
  Require(context_id_.has_value(), "a block status without a selected context");
  Require(pending.reply.context_id == *context_id_,
          "a block status for an unknown context");
  const size_t size = extended ? 16 : 8;  // of a descriptor
  Require(!extended || uint64_t{payload.U32()} * size == payload.left(),
          "NBD_REPLY_TYPE_BLOCK_STATUS_EXT of another descriptor count");
  Require(payload.left() > 0 && payload.left() % size == 0,
          "a block status chunk of a wrong length");
  Require(payload.left() / size <= 1u << 20,
          "more than 2^20 extents in a chunk");
  uint64_t covered = 0;
  while (payload.left() > 0) {
    // All but the last one must end inside of the request.
    Require(covered < request.length,
            "an extent begins behind the end of the request");
    Extent extent;
    extent.length = extended ? payload.U64() : payload.U32();
    Require(!extended || payload.U32() == 0,
            "the upper half of a status of base:allocation is not zero");
    extent.flags = payload.U32();
    Require(extent.length > 0, "an extent of length 0");
    Require((extent.flags & ~(kStateHole | kStateZero)) == 0,
            "an extent has unknown flags");
    covered += extent.length;
    pending.reply.extents.push_back(extent);
  }
  if ((request.flags & kCmdFlagReqOne) != 0) {
    Require(pending.reply.extents.size() == 1,
            "NBD_CMD_FLAG_REQ_ONE, but several extents");
    Require(covered <= request.length,
            "NBD_CMD_FLAG_REQ_ONE, but a longer extent");
  }
}

void Peer::TakeError(Pending& pending, uint16_t type, Reader& payload) {
  const Request& request = pending.request;
  const uint32_t error = payload.U32();
  Require(IsKnownError(error),
          "the specification has no error " + std::to_string(error));
  const uint16_t message_length = payload.U16();
  Require(message_length <= kMaxString,
          "the text of an error chunk is too long");
  std::string message = payload.Raw(message_length);
  Require(IsProtocolString(message),
          "the text of an error chunk is no valid string");
  // No duty of the specification, but a promise of nbdinetd.
  Require(!message.empty(), "an error chunk without a sentence");
  if (type == kReplyErrorOffset) {
    Require(MayFailAtOffset(request.type),
            "an error offset for a request that has none");
    const uint64_t offset = payload.U64();
    Require(
        offset >= request.offset && offset - request.offset < request.length,
        "an error offset outside of the request");
  }
  Require(payload.left() == 0, "an error chunk is longer than its fields");
  Require(pending.reply.error == kNbdOk, "a second error chunk in a reply");
  pending.reply.error = error;
  pending.reply.message = std::move(message);
}

void Peer::CheckComplete(const Pending& pending) const {
  const Request& request = pending.request;
  const Reply& reply = pending.reply;
  if (reply.error == kNbdOk && request.type == kCmdRead) {
    // They don't overlap and lie inside of the request, so the sum tells.
    uint64_t covered = 0;
    for (const Piece& piece : reply.pieces) covered += piece.length;
    Require(covered == request.length,
            "a successful read is not covered by its chunks");
  }
  Require(reply.error != kNbdOk || request.type != kCmdBlockStatus ||
              pending.has_status,
          "a successful block status without a status chunk");
  Require(reply.error != kNbdEoverflow || (request.flags & kCmdFlagDf) == 0 ||
              reply.pieces.empty(),
          "content in spite of NBD_EOVERFLOW");
}

std::map<uint64_t, Reply> Peer::ReceiveAllReplies() {
  std::map<uint64_t, Reply> replies;
  while (!pending_.empty()) {
    Reply reply = ReceiveReply();
    const uint64_t cookie = reply.cookie;
    Require(replies.emplace(cookie, std::move(reply)).second,
            "a second reply to a request");
  }
  return replies;
}

Reply Peer::Transact(const Request& request, std::string_view payload) {
  Require(pending_.empty(), "Transact() is for one request at a time");
  SendRequest(request, payload);
  return ReceiveReply();
}

void Peer::Disconnect() {
  Require(pending_.empty(), "Disconnect() with pending requests");
  SendRequest({.type = kCmdDisc});
  const Bytes rest = ReceiveToEnd();
  Require(rest.empty(),
          std::to_string(rest.size()) + " bytes after NBD_CMD_DISC");
}

}  // namespace nbdtest
